package nfsbench

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

func someRows() []Row {
	ms := func(n int) Times {
		d := time.Duration(n) * time.Millisecond
		return Times{Count: 1, P50: d, P99: d, Longest: d}
	}
	return []Row{
		{Engine: "kernel", Exports: 10, Date: "2026-01-02", Kernel: "7.2", Publish: ms(10), HTTPRepeated: ms(2), Idle: ms(10), Busy: ms(15)},
		{Engine: "kernel", Exports: 10_000, Date: "2026-01-02", Kernel: "7.2", Publish: ms(16), HTTPRepeated: ms(1), HTTPGet: ms(1), Idle: ms(10), Busy: ms(21), Restore: 2 * time.Second},
		{Engine: "exportfs", Exports: 10, Date: "2026-01-02", Kernel: "7.2", Publish: ms(20), Busy: ms(4000), DaemonMemory: 1 << 20},
	}
}

func TestTargets(t *testing.T) {
	text := Report(someRows())
	for _, want := range []string{
		"| publish p50 with 10,000 exports against that with 10 | at most 1.5× | 1.60× | **missed** |",
		"| publish through HTTP without the commit, p50 with 10,000 exports against that with 10 | at most 1.5× | 0.50× | met |",
		"| under 1 ms | 2.00 ms | **missed** |",
		"| longest steady write with 10 exports, while others are published, against the idle run's | at most 2× | 1.50× | met |",
		"with 10,000 exports, while others are published, against the idle run's | at most 2× | 2.10× | **missed** |",
		"| 10,000 exports back after a restart | under 1 s | 2.00 s | **missed** |",
		"| exportfs | 10 | 20.0 ms |", "| 1.0 MiB |", "Linux 7.2",
	} {
		assert.Check(t, is.Contains(text, want))
	}
	assert.Assert(t, !strings.Contains(text, "NaN") && !strings.Contains(text, "quick"), text)
	assert.Assert(t, is.Contains(Report([]Row{{Engine: "exportfs", Quick: true}}), "quick run"))
}

func TestCommitReport(t *testing.T) {
	without := []float64{100, 200, 400, 100}
	text := CommitReport([]CommitRow{{Pool: "full quotas", Files: [][]float64{
		without, {90, 180, 360, 10}, {100, 200, 400, 400}, {110, 100, 440, 110},
	}, Commits: []float64{0, 0.02, 0.01, 0.03}}})
	assert.Assert(t, is.Contains(text, "| full quotas | +10.0 %, 2.0 % | +0.0 %, 1.0 % | -10.0 %, 3.0 % |"))
	for i, mode := range commitModes {
		assert.Equal(t, strings.Contains(text, " "+mode.name+" |"), i > 0, mode.name)
	}
	assert.Equal(t, commitTurn{begin: 10, end: 20}.rate([]int64{9, 10, 19, 20}), 2/(10*time.Nanosecond).Seconds())
}

func TestPlotIsWellFormedAndHasEveryPoint(t *testing.T) {
	plot := Plot(someRows())
	decoder, circles := xml.NewDecoder(strings.NewReader(plot)), 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		assert.NilError(t, err, plot)
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "circle" {
			circles++
		}
	}
	assert.Equal(t, circles, 3+0+3+1, "publish, revoke, stall, restart; what was not measured is left out")
	assert.Assert(t, !strings.Contains(plot, "NaN") && !strings.Contains(plot, "Inf"), plot)
	assert.Assert(t, !strings.Contains(Plot(nil), "NaN"))
}

func TestRunsInPartsAddUp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rows.json")
	rows, err := Load(file)
	assert.NilError(t, err)
	assert.Equal(t, len(rows), 0)
	for _, row := range []Row{{Engine: "exportfs", Exports: 10}, {Engine: "kernel", Exports: 1000}, {Engine: "kernel", Exports: 10}, {Engine: "kernel", Exports: 10, PerSecond: 7}} {
		assert.NilError(t, Keep(file, row))
	}
	rows, err = Load(file)
	assert.NilError(t, err)
	assert.DeepEqual(t, rows, []Row{{Engine: "kernel", Exports: 10, PerSecond: 7}, {Engine: "kernel", Exports: 1000}, {Engine: "exportfs", Exports: 10}})
}

func TestWriteReportsEachFile(t *testing.T) {
	var out strings.Builder
	folder := t.TempDir()
	assert.NilError(t, Write([]string{folder, "50ms"}, &out))
	lines := strings.Fields(out.String())
	assert.Assert(t, len(lines) > 0)
	for _, line := range lines {
		n, err := strconv.ParseInt(line, 10, 64)
		assert.NilError(t, err)
		assert.Assert(t, n > 0)
	}
	written, err := filepath.Glob(filepath.Join(folder, "turn-*", "*"))
	assert.NilError(t, err)
	assert.Equal(t, len(written), len(lines))
	assert.NilError(t, (&run{steady: nfs.Export{Path: folder}}).removeWritten())
	left, err := os.ReadDir(folder)
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
	assert.ErrorContains(t, Write(nil, &out), "usage")
}
