// Command path-calls makes one CreateVolume and one NodeStageVolume in a lab, with daemons that
// were built with -cover. test/path-figures.sh runs it and counts the files on the path of each
// call.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// cover names the directory in which a daemon writes its coverage when it ends
// (go.dev/doc/build-cover).
const cover = "GOCOVERDIR"

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run starts and stops the daemons without a call first, so that the code of start and stop can be
// subtracted from that of the call.
func run(ctx context.Context, dir string) (err error) {
	if err := os.Setenv(cover, dir); err != nil { // of the first start, which initializes the pool
		return err
	}
	s, err := system.Start(system.Options{Lab: lab.Options{Nodes: 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()

	ends := []*system.Daemon{s.Agent, s.Controller}
	if err := record(dir, "start-create", ends, func() error { return nil }); err != nil {
		return err
	}
	if err := record(dir, "create", ends, func() error {
		_, err := s.CreateVolume(ctx, "measured", 64<<20, nil)
		return err
	}); err != nil {
		return err
	}

	v, err := s.CreateVolume(ctx, "staged", 64<<20, nil)
	if err != nil {
		return err
	}
	a := s.NewAttachment(s.Nodes[0], v, system.AttachOptions{})
	if err := a.ControllerPublish(ctx); err != nil {
		return err
	}
	node := []*system.Daemon{s.Nodes[0].Driver}
	if err := record(dir, "start-stage", node, func() error { return nil }); err != nil {
		return err
	}
	if err := record(dir, "stage", node, func() error { return a.Stage(ctx) }); err != nil {
		return err
	}
	return a.Detach(ctx)
}

// record restarts the daemons, runs the call, and stops them, so that their coverage is in the
// directory of that name. It leaves them running with another directory.
func record(dir, name string, daemons []*system.Daemon, call func() error) error {
	to := filepath.Join(dir, name)
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	if err := restart(daemons, to); err != nil {
		return err
	}
	if err := call(); err != nil {
		return err
	}
	return restart(daemons, dir)
}

func restart(daemons []*system.Daemon, to string) error {
	for _, d := range daemons {
		if err := d.Stop(); err != nil {
			return err
		}
		d.SetEnv(cover + "=" + to)
		if err := d.Start(); err != nil {
			return err
		}
	}
	return nil
}
