//go:build release

package release

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// A host has two pools, each with an agent, as in docs/operations/two-pools.md. Neither changes the
// exports of the other, even after a restart.
func TestTwoPools(t *testing.T) { // not parallel: containers share the ports of the machine
	image := filepath.Join(t.TempDir(), "second")
	assert.NilError(t, os.WriteFile(image, nil, 0o600))
	assert.NilError(t, os.Truncate(image, 1<<30))
	device := strings.TrimSpace(command(t, "losetup", "-f", "--show", image))
	t.Cleanup(func() { command(t, "losetup", "-d", device) })
	h := bootHere(t, unpacked(t)+":/media", device)
	h.run("/media/install.sh --engine exportfs --base-path /srv/btrfs --device " + h.device + " --confirm-device " + h.device)
	h.run("mkfs.btrfs -q " + device + " && mkdir /srv/second && mount -o noatime " + device + " /srv/second")
	h.run("printf '#!/bin/sh\\nhead -c $3 /dev/urandom | od -An -tx1 | tr -d \" \\\\n\"\\n' > /usr/local/bin/openssl && chmod +x /usr/local/bin/openssl") // minbase lacks it
	for _, b := range blocks(t, "docs/operations/two-pools.md") {
		if b.runBy == "TestTwoPools" {
			// doctor fails, because there is no NFS server here.
			out, _ := h.try("set -e\n" + b.script)
			assert.Assert(t, is.Contains(out, "ok    base path      /srv/second is on btrfs"))
		}
	}
	agents := map[string]string{"default": "8080", "second": "8081"}
	for tenant, port := range agents {
		file := map[string]string{"default": "agent.env", "second": "second.env"}[tenant]
		token := strings.TrimSpace(h.run("sed -n 's/^AGENT_TENANTS=" + tenant + "://p' /etc/btrfs-nfs-agent/" + file))
		assert.Equal(t, len(token), 64)
		agent := "AGENT_URL=http://localhost:" + port + " AGENT_TOKEN=" + token + " btrfs-nfs-agent "
		h.run(agent + "volume create v 64Mi && " + agent + "export add v " + clientAddress)
	}
	exported := func() string { return h.run("exportfs -s | cut -d' ' -f1 | sort") }
	assert.Equal(t, exported(), "/srv/btrfs/default/v/data\n/srv/second/second/v/data\n")
	for _, unit := range []string{"btrfs-nfs-agent", "btrfs-nfs-second"} {
		h.run("systemctl restart " + unit)
		assert.Equal(t, h.run("systemctl is-active btrfs-nfs-agent btrfs-nfs-second"), "active\nactive\n")
		assert.Equal(t, exported(), "/srv/btrfs/default/v/data\n/srv/second/second/v/data\n")
	}
}
