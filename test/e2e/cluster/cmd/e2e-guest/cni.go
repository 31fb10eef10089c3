package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
)

// Names of the plugins. containerd runs the second for every pod automatically.
const (
	cniPlugin   = "e2e-address"
	cniLoopback = "loopback"
	cniVersion  = "0.4.0"
)

// cni answers containerd (the CNI specification 0.4.0). Pods have a loopback interface and an
// unreachable address: storage is mounted from the node's network, and needs no pod network.
func cni(plugin string) error {
	switch os.Getenv("CNI_COMMAND") {
	case "VERSION":
		return answer(map[string]any{"cniVersion": cniVersion, "supportedVersions": []string{"0.3.1", cniVersion}})
	case "ADD":
	default:
		return nil
	}
	namespace, name := os.Getenv("CNI_NETNS"), "eth0"
	sum := sha256.Sum256([]byte(os.Getenv("CNI_CONTAINERID")))
	address := fmt.Sprintf("10.78.%d.%d/16", sum[0], max(sum[1], 1))
	if plugin == cniLoopback {
		if err := tool("nsenter", "--net="+namespace, "ip", "link", "set", "lo", "up"); err != nil {
			return err
		}
		name, address = "lo", "127.0.0.1/8"
	}
	return answer(map[string]any{
		"cniVersion": cniVersion,
		"interfaces": []any{map[string]any{"name": name, "sandbox": namespace}},
		"ips":        []any{map[string]any{"version": "4", "address": address, "interface": 0}},
	})
}

func answer(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }
