//go:build lab

package nfsbench

import (
	"log/slog"
	"os"
	"testing"

	"gotest.tools/v3/assert"
)

// The test binary is also the program that writes to the mount.
const writeArgument = "nfsbench-write"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == writeArgument {
		if err := Write(os.Args[2:], os.Stdout); err != nil {
			slog.Error("write", "error", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A small run of the commits: see TestQuickRun.
func TestQuickRunOfCommits(t *testing.T) {
	rows, err := RunCommits(t.Context(), Options{Quick: true, Log: slog.New(slog.DiscardHandler), Writer: []string{os.Args[0], writeArgument}})
	assert.NilError(t, err)
	assert.Equal(t, len(rows), 1)
	assert.Equal(t, len(rows[0].Files), len(commitModes))
	made := 0.0 // on a busy machine, a turn of a second may have no file
	for i, files := range rows[0].Files {
		assert.Equal(t, len(files), 1, commitModes[i].name)
		made += files[0]
	}
	assert.Assert(t, made > 0)
}

// A small run does the same steps as a large one. The test ignores the results, because the machine
// may be busy.
func TestQuickRun(t *testing.T) {
	var rows []Row
	err := Run(t.Context(), Options{
		Engines: []string{"kernel", "exportfs"}, Counts: []int{10}, Quick: true,
		Log: slog.New(slog.DiscardHandler), Writer: []string{os.Args[0], writeArgument},
	}, func(row Row) error {
		rows = append(rows, row)
		return nil
	})
	assert.NilError(t, err)
	assert.Equal(t, len(rows), 2)
	for _, row := range rows {
		for name, times := range map[string]Times{
			"publish": row.Publish, "revoke": row.Revoke, "idle": row.Idle, "busy": row.Busy, "get": row.HTTPGet, "http": row.HTTP, "repeated": row.HTTPRepeated,
		} {
			assert.Assert(t, times.Count > 0 && times.P50 > 0 && times.Longest >= times.P50, "%s %s: %+v", row.Engine, name, times)
		}
		assert.Assert(t, row.PerSecond > 0 && row.BusyChanges > 0 && row.Restore > 0, "%+v", row)
	}
}
