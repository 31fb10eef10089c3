package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

type device = agentapi.DeviceStats

var deviceColumns = columns[device]{
	{name: "device", text: func(d device) string { return d.Device }},
	{name: "id", text: func(d device) string { return d.Devid }, spare: true},
	{name: "size", text: func(d device) string { return humanSize(d.SizeBytes) }, order: by(func(d device) int64 { return d.SizeBytes })},
	{name: "allocated", text: func(d device) string { return humanSize(d.AllocatedBytes) }, order: by(func(d device) int64 { return d.AllocatedBytes })},
	{name: "state", text: deviceState},
	{name: "read", text: func(d device) string { return humanSize(d.Io.ReadBytesTotal) }, order: by(func(d device) int64 { return d.Io.ReadBytesTotal }), spare: true},
	{name: "written", text: func(d device) string { return humanSize(d.Io.WriteBytesTotal) }, order: by(func(d device) int64 { return d.Io.WriteBytesTotal }), spare: true},
	{name: "errors", text: func(d device) string {
		e := d.Errors
		return fmt.Sprintf("read %d, write %d, flush %d, corruption %d, generation %d", e.ReadErrs, e.WriteErrs, e.FlushErrs, e.CorruptionErrs, e.GenerationErrs)
	}, wide: true},
}

func deviceState(d device) string {
	e := d.Errors
	switch {
	case d.Missing:
		return "MISSING"
	case e.ReadErrs+e.WriteErrs+e.FlushErrs+e.CorruptionErrs+e.GenerationErrs > 0:
		return "ERRORS"
	}
	return "ok"
}

func statsCommand() *cobra.Command {
	var watch watching
	command := &cobra.Command{Use: "stats", Short: "Show space and devices of the pool", Args: arguments(cobra.NoArgs)}
	watch.repeat(command, deviceColumns.names(), func(s *session, ctx context.Context, _ []string, w io.Writer, out output) error {
		stats, err := s.Stats(ctx)
		if err != nil {
			return err
		}
		return s.writeStats(w, out, stats)
	})
	return command
}

func (s *session) writeStats(w io.Writer, out output, stats *agentapi.Stats) error {
	switch out.format {
	case "json", "yaml":
		return encode(w, out.format, stats)
	case "name":
		return printNames(w, deviceColumns[0], stats.Btrfs.Devices)
	}
	b := stats.Btrfs
	fmt.Fprintf(w, "space:     %s used of %s (%s), %s free, %s unallocated\n",
		humanSize(b.UsedBytes), humanSize(b.TotalBytes), percent(b.UsedBytes, b.TotalBytes), humanSize(b.FreeBytes), humanSize(b.UnallocatedBytes))
	fmt.Fprintf(w, "metadata:  %s used of %s (%s)\n", humanSize(b.MetadataUsedBytes), humanSize(b.MetadataTotalBytes), percent(b.MetadataUsedBytes, b.MetadataTotalBytes))
	fmt.Fprintf(w, "copies:    %g bytes on the devices for one of data\n", b.DataRatio)
	if l := stats.TenantLimits; l != nil {
		fmt.Fprintf(w, "tenant:    %d volumes of at most %s, %s in all of at most %s\n",
			l.Volumes, limitOf(l.MaxVolumes > 0, strconv.Itoa(l.MaxVolumes)), humanSize(l.SizeBytes), limitOf(l.MaxSizeBytes > 0, humanSize(l.MaxSizeBytes)))
	}
	fmt.Fprintln(w)
	return printItems(s, w, out, deviceColumns, b.Devices)
}

func limitOf(set bool, text string) string {
	if !set {
		return "any"
	}
	return text
}

func healthCommand() *cobra.Command {
	var watch watching
	command := &cobra.Command{Use: "health", Short: "Show the health of agent and pool (exit code 1 if degraded)", Args: arguments(cobra.NoArgs)}
	watch.repeat(command, []string{"status"}, func(s *session, ctx context.Context, _ []string, w io.Writer, out output) error {
		health, err := s.Health(ctx)
		if err != nil {
			return err
		}
		err = writeHealth(w, out, health)
		if err == nil && health.Status != agentapi.StatusOK && !watch.on {
			return &commandError{code: ExitFailed, cause: errDegraded, advice: "See docs/troubleshooting.md. On the storage host: btrfs-nfs-agent doctor"}
		}
		return err
	})
	return command
}

var errDegraded = fmt.Errorf("the agent is degraded")

func writeHealth(w io.Writer, out output, h *agentapi.Health) error {
	switch out.format {
	case "json", "yaml":
		return encode(w, out.format, h)
	case "name":
		_, err := fmt.Fprintln(w, h.Status)
		return err
	}
	fmt.Fprintf(w, "status:   %s\nversion:  %s (commit %s)\nuptime:   %s\n", h.Status, h.Version, h.Commit, duration(time.Duration(h.UptimeSeconds)*time.Second))
	for _, c := range h.Conditions {
		fmt.Fprintf(w, "%s: %s\n", c.Reason, strings.TrimSpace(c.Message))
	}
	return nil
}
