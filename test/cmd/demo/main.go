// Command demo shows btrfs-nfs-csi with real btrfs and real NFS. `sudo make demo` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/story"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

func main() {
	keep := flag.Bool("keep", false, "leave everything running when the demo is over, until Ctrl-C")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := newPrinter(os.Stdout)
	if err := run(ctx, out, *keep); err != nil {
		out.fail(err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out *printer, keep bool) (err error) {
	out.title("btrfs-nfs-csi: one storage host, two worker nodes, real btrfs, the kernel's NFS server")
	var s *system.System
	if err := out.step("start storage host, agent, controller and two node drivers", func() (string, error) {
		var err error
		s, err = system.Start(system.Options{Lab: lab.Options{Nodes: 2, PoolSize: story.PoolBytes, PoolMountOptions: story.PoolMountOptions}})
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("agent at %s, nodes %s and %s", s.AgentURL(), s.Nodes[0].ID, s.Nodes[1].ID), nil
	}); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			fmt.Fprintln(os.Stderr, s.Logs())
		}
		if closeErr := s.Close(); err == nil {
			err = closeErr
		}
	}()
	for _, step := range story.Steps(ctx, s) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := out.step(step.Name, step.Do); err != nil {
			return err
		}
	}
	out.done()
	if keep {
		return leaveRunning(ctx, out, s)
	}
	return nil
}

// leaveRunning attaches a volume for the user, prints instructions, and waits.
func leaveRunning(ctx context.Context, out *printer, s *system.System) error {
	v, err := s.CreateVolume(ctx, "playground", 1<<30, nil)
	if err != nil {
		return err
	}
	for _, n := range s.Nodes {
		a, err := s.Attach(ctx, n, v, system.AttachOptions{})
		if err != nil {
			return err
		}
		out.line(fmt.Sprintf("volume %q is mounted on %s at %s", v.GetVolumeId(), n.Name, a.Target))
	}
	out.line("")
	out.line("Everything goes on running. From another terminal, as root:")
	out.line("  bin/lab enter -name demo -host node-1 df -h -t nfs4      # a worker node; node-2 is the other")
	out.line("  bin/lab enter -name demo -host storage exportfs -v       # the storage host")
	out.line(fmt.Sprintf("  bin/lab enter -name demo -host storage env AGENT_URL=%s AGENT_TOKEN=%s %s volume list",
		s.AgentURL(), system.Token, filepath.Join(os.Getenv("BNC_BIN"), "btrfs-nfs-agent")))
	out.line("Ctrl-C here ends it.")
	<-ctx.Done()
	return nil
}
