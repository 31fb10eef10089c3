//go:build lab

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// runHandbook runs the blocks of commands in the documents, in order, on a Debian with only a btrfs
// filesystem and an NFS server: from unpacking the tarball to backup. Each block must succeed.
func runHandbook(t *testing.T, h *host) {
	version := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(os.Getenv("BNC_TARBALL")), "btrfs-nfs-agent_"), "_linux_"+runtime.GOARCH+".tar.gz")
	h.run("mkfs.btrfs -q " + h.device + " && mkdir -p /srv/btrfs /etc/bash_completion.d && mount " + h.device + " /srv/btrfs && echo 127.0.0.1 nas >> /etc/hosts")
	h.run(`printf '#!/bin/sh\nexec "$@"\n' > /usr/local/bin/sudo && printf '#!/bin/sh\ncat > /root/kubectl-$1\n' > /usr/local/bin/kubectl && chmod +x /usr/local/bin/sudo /usr/local/bin/kubectl`)
	// As in the documents.
	name := "btrfs-nfs-agent_" + version + "_linux_amd64"
	h.run("cp -r /media/new /tmp/" + name + " && tar -C /tmp -cf - " + name + " | gzip -1 > /root/" + name + ".tar.gz")
	var token string
	ran := 0
	for _, document := range handbook {
		for _, b := range blocks(t, document) {
			if b.notRun != "" || b.runBy != "" {
				continue
			}
			script := strings.ReplaceAll(b.script, "VERSION", version)
			var lines []string
			for line := range strings.Lines(script) {
				line = strings.TrimRight(line, "\n")
				if strings.Contains(line, "--watch") {
					line = "timeout --foreground --preserve-status -s INT 4 " + line // the command ends when it is interrupted, which is not a failure. By default timeout(1) sends two signals, and the second kills
				}
				lines = append(lines, line)
			}
			script = "set -e\ncd /root\n" + strings.Join(lines, "\n") + "\n"
			begin := time.Now()
			if strings.Contains(script, "curl ") {
				onMachine(t, b, script, token)
			} else {
				h.run("cat > /root/block <<'END-OF-BLOCK'\n" + script + "END-OF-BLOCK\nexport HOME=/root AGENT_URL=http://localhost:8080 AGENT_TOKEN=" + token + "\necho $AGENT_TOKEN | bash /root/block")
			}
			t.Logf("%v in %v", b, time.Since(begin).Round(time.Millisecond))
			ran++
			if token == "" && strings.Contains(b.script, "install.sh") {
				token = strings.TrimSpace(h.run("sed -n 's/^AGENT_TENANTS=default://p' /etc/btrfs-nfs-agent/agent.env"))
				assert.Equal(t, len(token), 64)
				mountsAtOnce(t, h)
			}
		}
	}
	assert.Assert(t, ran >= 10, "%d blocks", ran)
	for _, shown := range inlineCommands(t) {
		if notRun[shown] == "" {
			line := placeholders.Replace(strings.TrimSuffix(shown, "..."))
			script := "cd /root/" + name + "\n" + line
			if strings.HasPrefix(line, "curl ") {
				onMachine(t, block{script: shown}, line, token)
				continue
			}
			h.run("cat > /root/block <<'END-OF-BLOCK'\n" + script + "\nEND-OF-BLOCK\nexport HOME=/root AGENT_URL=http://localhost:8080 AGENT_TOKEN=" + token + "\nbash /root/block")
		}
	}
	manifest := h.run("cat /root/kubectl-apply")
	assert.Assert(t, is.Contains(manifest, "kind: PersistentVolume\n"))
	assert.Assert(t, is.Contains(manifest, "kind: PersistentVolumeClaim\n"))
}

// placeholders replaces the placeholders of the documents, as a reader does.
var placeholders = strings.NewReplacer("VOLUME", "db", " V", " db", "URL", "http://localhost:8080", "COMMAND", "volume", "DIR", "/srv/btrfs")

// mountsAtOnce mounts a volume just after the installation. The installer's changes of the NFS
// server do not delay it.
func mountsAtOnce(t *testing.T, h *host) {
	t.Helper()
	agent := h.agent("default")
	h.run(agent + "volume create at-once 64Mi && " + agent + "export add at-once " + clientAddress)
	begin := time.Now()
	dir := mounted(t, "/srv/btrfs/default/at-once/data")
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	took := time.Since(begin)
	t.Logf("mounted and written after %v", took)
	assert.Assert(t, took < 20*time.Second, "%v", took)
}

// onMachine runs a block outside the container, which shares its network with the machine but has
// no curl. A refused request fails.
func onMachine(t *testing.T, b block, script, token string) {
	t.Helper()
	home := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(home, ".curlrc"), []byte("fail\nshow-error\n"), 0o600))
	cmd := exec.Command("bash", "-c", strings.Replace(script, "cd /root\n", "", 1))
	cmd.Env = append(os.Environ(), "HOME="+home, "AGENT_URL=http://localhost:8080", "AGENT_TOKEN="+token)
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%v: %s", b, out)
}
