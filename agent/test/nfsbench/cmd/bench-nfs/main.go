// Command bench-nfs measures the export engines: see "NFS exports" in docs/benchmarks.md. It runs
// in a machine of the lab.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/bench/document"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/nfsbench"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/log"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "bench-nfs:", err)
		os.Exit(1)
	}
}

// With this argument, the program writes to the mount.
const write = "write"

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == write {
		return nfsbench.Write(args[1:], os.Stdout)
	}
	logger, err := log.New(os.Stderr, "info", "text")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	options := nfsbench.Options{Writer: []string{self, write}, Log: logger}
	flags := flag.NewFlagSet("bench-nfs", flag.ContinueOnError)
	flags.BoolVar(&options.Quick, "quick", false, "a short run, to see that it works")
	engines := flags.String("engines", "kernel,exportfs", "which to measure")
	counts := flags.String("exports", "10,100,1000,5000,10000,30000", "with how many exports")
	data := flags.String("data", "", "`file` to keep what was measured in, with what earlier runs measured; for runs in parts")
	into := flags.String("write", "", "`file` to write the report into, between its markers, beside printing it")
	section := flags.String("section", "bench-nfs-commits", "`name` of the section that -commits writes")
	plot := flags.String("plot", "", "`file` for the plot, an SVG")
	commits := flags.Bool("commits", false, "measure what the agent's commits for clients cost, and nothing else")
	only := flags.Bool("render", false, "measure nothing; report what -data holds")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	}
	if *commits {
		return reportCommits(ctx, options, *into, *section)
	}
	options.Engines = strings.Split(*engines, ",")
	for count := range strings.SplitSeq(*counts, ",") {
		n, err := strconv.Atoi(count)
		if err != nil {
			return fmt.Errorf("-exports: %w", err)
		}
		options.Counts = append(options.Counts, n)
	}
	if *data == "" {
		file, err := os.CreateTemp("", "bench-nfs-*.json")
		if err != nil {
			return err
		}
		*data = file.Name()
		if err := errors.Join(file.Close(), os.Remove(file.Name())); err != nil {
			return err
		}
		defer func() { _ = os.Remove(*data) }() // a temporary file
	}
	if !*only {
		if err := nfsbench.Run(ctx, options, func(row nfsbench.Row) error { return nfsbench.Keep(*data, row) }); err != nil {
			return err
		}
	}
	return report(*data, *into, *plot)
}

func reportCommits(ctx context.Context, options nfsbench.Options, into, section string) error {
	rows, err := nfsbench.RunCommits(ctx, options)
	if err != nil {
		return err
	}
	text := nfsbench.CommitReport(rows)
	fmt.Print(text)
	if into == "" {
		return nil
	}
	return document.WriteInto(into, section, text)
}

func report(data, into, plot string) error {
	rows, err := nfsbench.Load(data)
	if err != nil {
		return err
	}
	text := nfsbench.Report(rows)
	fmt.Print(text)
	if plot != "" {
		if err := os.WriteFile(plot, []byte(nfsbench.Plot(rows)), 0o600); err != nil {
			return err
		}
	}
	if into == "" {
		return nil
	}
	return document.WriteInto(into, "bench-nfs", text)
}
