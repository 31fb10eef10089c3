package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/internal/wire"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/native"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/setup"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/uml"
)

// Values of BNC_LAB. Without it, the features of this kernel decide.
const (
	kindUML    = "uml"
	kindNative = "native"
)

// request describes the machine that the user wants.
type request struct {
	name    string
	memory  int64 // MiB
	disks   []string
	visible []string
}

func (r *request) flags(verb, name string) *flag.FlagSet {
	flags := flag.NewFlagSet(verb, flag.ContinueOnError)
	flags.StringVar(&r.name, "name", name, "let `lab enter -name NAME` run programs in the machine")
	flags.Int64Var(&r.memory, "memory", 2048, "memory of a guest in `MiB`")
	flags.Func("disk", "`file` that becomes /dev/ubda of a guest; may be repeated", func(path string) error {
		path, err := filepath.Abs(path)
		r.disks = append(r.disks, path)
		return err
	})
	return flags
}

// startMachine starts a machine of the kind that suits this kernel.
func startMachine(ctx context.Context, want request) (machine, error) {
	options, err := setup.FromEnv()
	if err != nil {
		return nil, err
	}
	if err := setup.Packages(ctx, options); err != nil {
		return nil, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	want.visible = append(want.visible, wd)
	if dir := options.NFSUtils(); dir != "" {
		want.visible = append(want.visible, dir)
		if err := os.Setenv("BNC_LAB_NFS_UTILS", dir); err != nil { // part of the machine's environment
			return nil, err
		}
	}
	useNative, err := choose()
	if err != nil {
		return nil, err
	}
	switch {
	case !useNative:
		return startUML(ctx, options, want)
	case len(want.disks) > 0:
		return nil, errors.New("only guests have disks: set BNC_LAB=" + kindUML)
	default:
		return startNative(ctx, want.visible)
	}
}

func choose() (useNative bool, err error) {
	switch kind := os.Getenv("BNC_LAB"); kind {
	case kindUML:
		return false, nil
	case kindNative:
		if err := native.Capable(); err != nil {
			return false, fmt.Errorf("BNC_LAB=%s: %w", kind, err)
		}
		return true, nil
	case "":
		return native.Capable() == nil, nil
	default:
		return false, fmt.Errorf("BNC_LAB=%q: set it to %q or %q", kind, kindUML, kindNative)
	}
}

func startNative(ctx context.Context, visible []string) (machine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return native.Start(ctx, self, wire.Setup{
		Hostname: "lab", Visible: append(visible, self), Self: self, Env: uml.DefaultEnv(),
	})
}

func startUML(ctx context.Context, options setup.Options, want request) (machine, error) {
	begin := time.Now()
	g, err := uml.Boot(ctx, uml.Config{
		Name: "lab", Memory: want.memory << 20, Disks: want.disks, Visible: want.visible, Setup: &options,
		Console: os.Getenv("BNC_LAB_CONSOLE"),
	})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "lab: Linux %s (User Mode Linux) up in %.1f s\n", g.Kernel, time.Since(begin).Seconds())
	return g, nil
}

// explain adds the last messages of the guest's kernel to the error of a program that ended with
// it.
func explain(err error, m machine) error {
	g, ok := m.(*uml.Guest)
	if !ok || !errors.Is(err, guest.ErrGone) {
		return err
	}
	return fmt.Errorf("%w; its console:\n%s", err, g.ConsoleTail(40))
}

// prepare is `lab setup`. Its arguments are additional Debian packages.
func prepare(packages []string) error {
	ctx := context.Background()
	begin := time.Now()
	options, err := setup.FromEnv()
	if err != nil {
		return err
	}
	options.Retry = true
	if err := setup.Packages(ctx, options); err != nil {
		return err
	}
	if err := setup.MorePackages(ctx, options, packages...); err != nil {
		return err
	}
	useNative, err := choose()
	if err != nil {
		return err
	}
	what := "this machine's own kernel has NFS"
	if !useNative {
		kernel, err := uml.Prepare(ctx, options)
		if err != nil {
			return err
		}
		what = "User Mode Linux " + kernel.Version
	}
	if err := setup.EnsureNFSUtils(ctx, options); err != nil {
		fmt.Printf("lab: no nfs-utils of Debian sid, and tests of them are skipped: %v\n", err)
	}
	fmt.Printf("lab: ready after %.1f s: %s\n", time.Since(begin).Seconds(), what)
	return nil
}
