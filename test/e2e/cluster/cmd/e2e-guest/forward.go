package main

import (
	"io"
	"net"
)

// forward forwards connections to another address until the process ends.
func forward(from, to string) error {
	target, err := net.ResolveTCPAddr("tcp", to)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", from)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			other, err := net.DialTCP("tcp", nil, target)
			if err != nil {
				return // the client's connection ends
			}
			defer func() { _ = other.Close() }()
			go func() {
				_, _ = io.Copy(other, conn)
				_ = other.CloseWrite()
			}()
			_, _ = io.Copy(conn, other)
		}()
	}
}
