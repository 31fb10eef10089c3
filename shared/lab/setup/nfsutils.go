package setup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// EnsureNFSUtils downloads rpc.mountd and exportfs of Debian sid to the cache, for tests of
// versions newer than this machine's.
func EnsureNFSUtils(ctx context.Context, o Options) error {
	unlock, err := o.Lock("nfs-utils")
	if err != nil {
		return err
	}
	defer unlock()
	if o.NFSUtils() != "" {
		return nil
	}
	dir := o.nfsUtilsDir()
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return prepareNFSUtils(ctx, o, dir)
}

// nfsUtilsLayout changes when prepared directories of older programs are no longer valid.
const nfsUtilsLayout = "1"

func (o Options) nfsUtilsDir() string {
	return filepath.Join(o.Cache, "nfs-utils", sid+"-"+nfsUtilsLayout)
}

// NFSUtils returns the directory that EnsureNFSUtils has prepared. Programs are in usr/sbin. It is
// empty if there is none.
func (o Options) NFSUtils() string {
	if _, err := os.Stat(filepath.Join(o.nfsUtilsDir(), "version")); err != nil {
		return ""
	}
	return o.nfsUtilsDir()
}

func prepareNFSUtils(ctx context.Context, o Options, dir string) error {
	state := filepath.Join(dir, "apt")
	o.say("downloading nfs-utils of Debian sid (17 MB, once)")
	apt, err := suiteApt(ctx, state, sid)
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	const server = "nfs-kernel-server"
	if err := apt.download(ctx, dir, server); err != nil {
		return err
	}
	libraries, err := librariesOf(ctx, filepath.Join(dir, server+"_*.deb"))
	if err != nil {
		return err
	}
	if err := apt.download(ctx, dir, libraries...); err != nil {
		return err
	}
	if err := unpack(ctx, dir); err != nil {
		return err
	}
	for _, name := range []string{"rpc.mountd", "exportfs"} {
		if err := useOwnLibc(ctx, dir, filepath.Join(dir, "usr/sbin", name)); err != nil {
			return err
		}
	}
	version, err := exec.CommandContext(ctx, filepath.Join(dir, "usr/sbin/rpc.mountd"), "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("rpc.mountd of sid does not run here: %w: %s", err, version)
	}
	return os.WriteFile(filepath.Join(dir, "version"), version, 0o644)
}

// librariesOf returns the libraries that a downloaded package directly depends on.
func librariesOf(ctx context.Context, pattern string) ([]string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("%d packages match %s, not one", len(found), pattern)
	}
	depends, err := exec.CommandContext(ctx, "dpkg-deb", "-f", found[0], "Depends").Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-deb -f %s: %w", found[0], err)
	}
	var libraries []string
	for dependency := range strings.SplitSeq(string(depends), ",") {
		name := strings.Fields(dependency + " ")
		if len(name) > 0 && strings.HasPrefix(name[0], "lib") {
			libraries = append(libraries, name[0])
		}
	}
	return libraries, nil
}
