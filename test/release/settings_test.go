//go:build release

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// oddPaths are base paths with special characters of the files that install.sh writes, or of a
// program that it uses.
var oddPaths = []string{
	"/srv/a b", "/srv/a  b ", "/srv/R&D", "/srv/a|b", `/srv/a\b`, `/srv/a\nb\\`, "/srv/it's", `/srv/"q"`, `/srv/'"`, "/srv/$HOME", "/srv/${A}`id`", "/srv/#a #b",
	"/srv/50%h", "/srv/%", "/srv/a;b*?[c]", "/srv/a,b:c=d", "/srv/ü日", "/srv/-e", "/srv/~!^", `/srv/all &|\"'$#%` + "`é",
}

// quoted returns text as one word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// systemd, a shell and the agent read the values that install.sh was given from its files.
func TestSettingsReadAsBySystemd(t *testing.T) {
	t.Parallel()
	h := bootHere(t, unpacked(t)+":/media")
	h.run("printf '[Service]\nExecStart=/bin/true\n' > /etc/systemd/system/odd.service")
	for _, path := range oddPaths {
		for _, engine := range []string{"kernel", "exportfs"} {
			h.run("rm -rf /tmp/root /etc/systemd/system/odd.service.d && /media/install.sh --root /tmp/root --engine " + engine + " --base-path " + quoted(path))
			const env = "/tmp/root/etc/btrfs-nfs-agent/agent.env"
			assert.Check(t, is.Equal(h.readsAs(env, "AGENT_BASE_PATH"), path))
			assert.Check(t, is.Equal(h.run("set -a && . "+env+" && printenv AGENT_BASE_PATH"), path+"\n"))

			h.run("cp -r /tmp/root/etc/systemd/system/btrfs-nfs-agent.service.d /etc/systemd/system/odd.service.d && systemctl daemon-reload")
			assert.Check(t, slices.Contains(h.paths("RequiresMountsFor"), path), "%s %s", engine, path)
			assert.Check(t, slices.Contains(h.paths("ReadWritePaths"), path) == (engine == "exportfs"), "%s %s", engine, path)
			again := h.run("/media/install.sh --root /tmp/root --engine " + engine + " --base-path " + quoted(path))
			assert.Check(t, is.Contains(again, "keeping the settings"))
		}
	}

	// The agent parses an administrator's file like systemd.
	for _, line := range []string{`plain`, ` a b `, `a\b\\c\"`, `"a\b\\c\"\$\n"`, `'a\b"c'`, `"a" 'b' c `, `it's "so" #c`, `"two` + "\n" + `lines"`, `a \` + "\n" + ` b`, `"a"b"c"`, `$A%h`, `"open`, `end\`} {
		h.run("printf %s " + quoted("A="+line) + " > /tmp/odd.env")
		assert.Check(t, is.Equal(h.run("/media/btrfs-nfs-agent settings get --env-file /tmp/odd.env A"), h.readsAs("/tmp/odd.env", "A")+"\n"), line)
	}
}

// paths returns those of a property of the unit odd, which systemctl prints as words of a shell.
func (h *host) paths(property string) []string {
	h.t.Helper()
	return strings.Split(h.run(`eval "set -- $(systemctl show -P `+property+` odd)"; printf '%s\n' "$@"`), "\n")
}

// readsAs returns the value that systemd gives a unit with this environment file.
func (h *host) readsAs(file, name string) string {
	h.t.Helper()
	return strings.TrimSuffix(h.run("systemd-run -q --wait --pipe -p EnvironmentFile="+file+" printenv "+name), "\n")
}

// The installer refuses values that cannot be written so that they are read back, before it changes
// anything.
func TestInstallRefusesSettings(t *testing.T) {
	dir := unpacked(t)
	for _, c := range []struct {
		arguments []string
		says      string
	}{
		{[]string{"--base-path", "srv"}, `AGENT_BASE_PATH must be an absolute path, got "srv"`},
		{[]string{"--base-path", "/srv/a\nb"}, "AGENT_BASE_PATH must be UTF-8 without control characters"},
		{[]string{"--base-path", "/srv/a\n"}, "AGENT_BASE_PATH must be UTF-8 without control characters"},
		{[]string{"--base-path", "/srv/a\tb"}, "AGENT_BASE_PATH must be UTF-8 without control characters"},
		{[]string{"--base-path", "/srv/\x7f"}, "AGENT_BASE_PATH must be UTF-8 without control characters"},
		{[]string{"--base-path", "/srv/\u0085"}, "AGENT_BASE_PATH must be UTF-8 without control characters"},
		{[]string{"--base-path", "/srv/\xff"}, "AGENT_BASE_PATH must be UTF-8 without control characters"},
		{[]string{"--base-path", "/srv/../a"}, "--base-path must not contain .., got /srv/../a"},
		{[]string{"--base-path", `/srv/a\040b`, "--engine", "exportfs"}, "path must not contain a backslash and three octal digits with nfs-utils"},
		{[]string{"--base-path", "/", "--engine", "exportfs"}, "must be an absolute, clean path below /"},
		{[]string{"--base-path", "/srv/a", "--tenant", "a b"}, "AGENT_TENANTS: "},
		{[]string{"--base-path", "/srv/a", "--tenant", "a|b&c"}, "AGENT_TENANTS: "},
		{[]string{"--base-path", "/srv/a", "--tenant", "a\nAGENT_QUOTA_MODE=off"}, "AGENT_TENANTS: "},
		{[]string{"--base-path", "/srv/a", "--tenant", "a:b"}, "--tenant must be a name without : and ,, got a:b"},
		{[]string{"--base-path", "/srv/a", "--tenant", "a,b"}, "--tenant must be a name without : and ,, got a,b"},
		{[]string{"--base-path", "/srv/a", "--engine", "both"}, "--engine must be exportfs or kernel"},
		{[]string{"--base-path", "/srv/a", "--older-nfs", "maybe"}, "--older-nfs must be on or off, got maybe"},
	} {
		root := filepath.Join(t.TempDir(), "root")
		out, err := exec.Command(dir+"/install.sh", append([]string{"--root", root}, c.arguments...)...).CombinedOutput()
		assert.ErrorContains(t, err, "exit status 1", "%q", c.arguments)
		assert.Check(t, is.Contains(string(out), c.says))
		_, err = os.Stat(root)
		assert.Check(t, os.IsNotExist(err), "%q", c.arguments)
	}
}

// The installer creates, mounts and serves a pool at a path with special characters of fstab, units
// and settings. The agent exits once if its settings are wrong, and starts when they are correct.
func TestInstallAtAnOddPath(t *testing.T) { // not parallel: containers share the ports of the machine
	h := bootHere(t, unpacked(t)+":/media")
	const path = `/srv/R&D |a\b "q" 'r' $HOME #1 50%h`
	h.run("printf 'tmpfs /mnt tmpfs noauto 0 0' > /etc/fstab")
	h.run("/media/install.sh --engine exportfs --base-path " + quoted(path) + " --device " + h.device + " --confirm-device " + h.device)
	assert.Equal(t, h.run("systemctl is-active btrfs-nfs-agent"), "active\n")
	assert.Equal(t, h.run("findmnt --fstab -n -o TARGET,OPTIONS -t btrfs"), path+" noatime,nofail\n")
	assert.Equal(t, h.run("findmnt --fstab -n -o TARGET -t tmpfs"), "/mnt\n")
	token := strings.TrimSpace(h.run("sed -n 's/^AGENT_TENANTS=default://p' /etc/btrfs-nfs-agent/agent.env"))
	agent := "AGENT_URL=http://localhost:8080 AGENT_TOKEN=" + token + " btrfs-nfs-agent "
	h.run(agent + "volume create v 64Mi && " + agent + "export add v " + clientAddress)
	assert.Equal(t, h.run("stat -f -c %T "+quoted(path+"/default/v/data")), "btrfs\n")
	found, _ := h.try("btrfs-nfs-agent doctor") // fails, because there is no NFS server here
	assert.Check(t, is.Contains(found, "\nok    base path "))
	assert.Check(t, is.Contains(found, "\nok    mount "))
	pid := h.run("systemctl show -P MainPID btrfs-nfs-agent")
	assert.Assert(t, is.Contains(h.run("/media/install.sh"), "keeping the settings"))
	assert.Assert(t, pid != h.run("systemctl show -P MainPID btrfs-nfs-agent"))
	assert.Assert(t, is.Contains(h.run(agent+"export list"), clientAddress))

	const env = "/etc/btrfs-nfs-agent/agent.env"
	for _, wrong := range []string{"echo AGENT_QUOTA_MODE=maybe >> " + env, "printf 'A=\\377' >> " + env, "rm " + env, `sed -i 's|^AGENT_BASE_PATH=.*|AGENT_BASE_PATH="/srv/\t"|' ` + env} {
		h.run("cp -p " + env + " /tmp/good.env && " + wrong)
		out, err := h.try("systemctl restart btrfs-nfs-agent")
		assert.ErrorContains(t, err, "exit status 1", out)
		h.run("sleep 5") // two restarts
		assert.Equal(t, h.run("systemctl show -P NRestarts -P ExecMainStatus -P ActiveState btrfs-nfs-agent"), "0\n78\nfailed\n", wrong)
		h.run("cp -p /tmp/good.env " + env + " && systemctl restart btrfs-nfs-agent")
	}
}

// The commands for HTTPS in docs/security.md result in an agent that answers over HTTPS.
func TestHTTPSOfDocument(t *testing.T) { // not parallel: containers share the ports of the machine
	h := bootHere(t, unpacked(t)+":/media")
	h.run("/media/install.sh --engine exportfs --base-path /srv/btrfs --device " + h.device + " --confirm-device " + h.device)
	// This Debian has no openssl. The machine makes the same request.
	dir := t.TempDir()
	command(t, "openssl", "version")
	for _, b := range blocks(t, "docs/security.md") {
		if b.runBy != "TestHTTPSOfDocument" {
			continue
		}
		request := strings.Split(b.script, "\n")[1]
		command(t, "sh", "-ec", "cd "+dir+" && "+request)
		for _, file := range []string{"tls.key", "tls.crt"} {
			content, err := os.ReadFile(filepath.Join(dir, file))
			assert.NilError(t, err)
			h.run("umask 077; cat > /etc/btrfs-nfs-agent/" + file + " <<'END'\n" + string(content) + "END")
		}
		out := h.run("set -e\n" + strings.Replace(b.script, request+"\n", "", 1))
		assert.Assert(t, is.Contains(out, "ok"))
	}
	_, err := h.try("btrfs-nfs-agent health --agent-url http://localhost:8080")
	assert.Assert(t, err != nil, "plain HTTP")
}
