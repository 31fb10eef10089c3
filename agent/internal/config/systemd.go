package config

import "os"

// NotifySocket is where systemd wants to hear of the service's state (sd_notify(3)); empty for nowhere.
func NotifySocket() string { return os.Getenv("NOTIFY_SOCKET") }
