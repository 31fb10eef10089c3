package csiserver

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

// Main is the main function of a driver. It prints the version, or runs the driver until the
// kubelet stops it.
func Main(component string, run func(context.Context) error) {
	showVersion := flag.Bool("version", false, "print the version and end")
	flag.Parse()
	if *showVersion {
		fmt.Println(version.Line(component))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", component, err)
		stop()
		os.Exit(1)
	}
}
