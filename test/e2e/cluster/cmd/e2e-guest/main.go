// Command e2e-guest is the cluster's program in the guest:
//
//	e2e-guest hosts N
//		create the storage host and N nodes, and execute commands from standard input
//	e2e-guest node NAME
//		prepare the node, in whose namespaces it runs, for containerd and a kubelet
//	e2e-guest register DRIVER SOCK
//		register a CSI driver with the kubelet, like node-driver-registrar
//	e2e-guest forward FROM TO
//		forward TCP connections
//
// Under the name of a CNI plugin, it acts as that plugin.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e-guest:", err)
		os.Exit(1)
	}
}

func run() error {
	if name := filepath.Base(os.Args[0]); name == cniPlugin || name == cniLoopback {
		return cni(name)
	}
	args := append(os.Args[1:], "", "", "")
	switch args[0] {
	case "hosts":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return hosts(n)
	case "node":
		return prepareNode(args[1])
	case "register":
		return register(args[1], args[2])
	case "forward":
		return forward(args[1], args[2])
	}
	return errors.New("arguments: hosts|node|register|forward")
}
