package csiserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"
)

// maxSocketPath is the longest path that fits sockaddr_un.sun_path with its final NUL (unix(7)).
const maxSocketPath = 107

// ParseEndpoint converts unix:///path, unix:path, tcp://host:port or an absolute path to the
// arguments of net.Listen.
func ParseEndpoint(endpoint string) (network, address string, err error) {
	scheme, rest, found := strings.Cut(endpoint, ":")
	switch {
	case strings.HasPrefix(endpoint, "/"):
		scheme, rest = "unix", endpoint
	case !found:
		return "", "", fmt.Errorf("endpoint must be unix:///path or tcp://host:port, got %q", endpoint)
	}
	address = strings.TrimPrefix(rest, "//")
	switch {
	case scheme != "unix" && scheme != "tcp":
		return "", "", fmt.Errorf("endpoint must be unix:///path or tcp://host:port, got %q", endpoint)
	case address == "":
		return "", "", fmt.Errorf("endpoint must name an address, got %q", endpoint)
	case scheme == "unix" && len(address) > maxSocketPath:
		return "", "", fmt.Errorf("endpoint must have a path of at most %d bytes, got %q", maxSocketPath, endpoint)
	}
	return scheme, address, nil
}

// Listen opens the endpoint. It removes a socket that a dead process left. It fails if a process
// still answers at the socket, or if the file is not a socket. Only its owner and group can access
// the socket.
func Listen(endpoint string) (net.Listener, error) {
	network, address, err := ParseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := removeStale(address); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o660); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
	}
	return listener, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s must be a socket, and is another file", path)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		return errors.Join(fmt.Errorf("another process is serving on %s", path), conn.Close())
	}
	return os.Remove(path)
}
