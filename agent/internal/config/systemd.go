package config

import "os"

// NotifySocket returns the socket for the state of the service (sd_notify(3)), or "" if there is
// none.
func NotifySocket() string { return os.Getenv("NOTIFY_SOCKET") }
