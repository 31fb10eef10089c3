// Command bench measures the agent: see docs/benchmarks.md. It needs root, btrfs-progs and loop
// devices.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/bench"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/bench/document"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/log"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// With this argument, the program is the agent under measurement.
const serve = "serve"

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == serve {
		// ^C also reaches the agent. The agent ends when the benchmark closes its input.
		return bench.Serve(context.WithoutCancel(ctx), args[1:], os.Stdin, os.Stdout)
	}
	logger, err := log.New(os.Stderr, "info", "text")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	options := bench.Options{Server: []string{self, serve}, Log: logger}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&options.Quick, "quick", false, "a small run, to see that it works")
	flags.StringVar(&options.Only, "only", "", "measure only changes or scale")
	flags.IntVar(&options.Rounds, "rounds", 0, "rounds of changes (default 10)")
	flags.StringVar(&options.Profile, "profile", "", "`file` for a CPU profile of the agent under changes")
	into := flags.String("write", "", "`file` to write the report into, between the markers of its section, beside printing it")
	section := flags.String("section", "bench", "`name` of that section")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	}
	var report bytes.Buffer
	if err := bench.Run(ctx, options, &report); err != nil {
		return err
	}
	if _, err := os.Stdout.Write(report.Bytes()); err != nil {
		return err
	}
	if *into == "" {
		return nil
	}
	return document.WriteInto(*into, *section, report.String())
}
