package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/lipgloss"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func someVolumes() []volume {
	now := time.Now()
	return []volume{
		{Name: "pvc-0f3bd7de-3c1d-4f7d-9ea1-6c9d47a5a001", SizeBytes: 10 << 30, UsedBytes: 1 << 30, CreatedBy: "k8s", Properties: agentapi.Properties{Compression: "zstd"}, CreatedAt: now.Add(-72 * time.Hour), Path: "/srv/btrfs/k8s/pvc-0f3bd7de-3c1d-4f7d-9ea1-6c9d47a5a001"},
		{Name: "db", SizeBytes: 2 << 30, UsedBytes: 2 << 30, Properties: agentapi.Properties{Nocow: true}, CreatedAt: now.Add(-time.Minute), Labels: agentapi.Labels{"b": "2", "a": "1"}},
		{Name: "ü-wide-界", SizeBytes: 1 << 40, CreatedAt: now.Add(-3 * time.Hour)},
	}
}

// A table is never wider than the terminal.
func TestTableFits(t *testing.T) {
	for _, format := range []string{"table", "wide"} {
		for width := 10; width < 250; width += 7 {
			var b bytes.Buffer
			s := &session{out: &b, width: width}
			assert.NilError(t, printItems(s, &b, output{format: format}, volumeColumns, someVolumes()))
			for line := range strings.SplitSeq(b.String(), "\n") {
				assert.Assert(t, lipgloss.Width(line) <= width, "%s at %d: %q", format, width, line)
			}
			if width >= 100 {
				assert.Assert(t, is.Contains(b.String(), "NAM"), "at %d", width)
			}
		}
	}
}

// A narrow terminal loses the spare columns before the name.
func TestNarrowTable(t *testing.T) {
	var b bytes.Buffer
	assert.NilError(t, printItems(&session{out: &b, width: 80}, &b, output{format: "table"}, volumeColumns, someVolumes()))
	assert.Assert(t, is.Contains(b.String(), "pvc-0f3bd7de-3c1d-4f7d-9ea1-6c9d47a5a001"))
	assert.Assert(t, !strings.Contains(b.String(), " AGE"), b.String())
	b.Reset()
	assert.NilError(t, printItems(&session{out: &b}, &b, output{format: "wide"}, volumeColumns, someVolumes()))
	for _, text := range []string{"AGE", "72h", "a=1,b=2", "/srv/btrfs/k8s/pvc-0f3bd7de", "nocow"} {
		text = strings.Replace(text, "72h", "3d", 1)
		assert.Assert(t, is.Contains(b.String(), text))
	}
}

func TestColumnsAndSort(t *testing.T) {
	names := func(sort string) string {
		var b bytes.Buffer
		assert.NilError(t, printItems(&session{out: &b}, &b, output{format: "name", sort: sort}, volumeColumns, someVolumes()))
		return strings.ReplaceAll(strings.TrimSpace(b.String()), "\n", " ")
	}
	const pvc = "pvc-0f3bd7de-3c1d-4f7d-9ea1-6c9d47a5a001"
	assert.Equal(t, names("size"), "db "+pvc+" ü-wide-界")
	assert.Equal(t, names("-size"), "ü-wide-界 "+pvc+" db")
	assert.Equal(t, names("age"), "db ü-wide-界 "+pvc)
	assert.Equal(t, names("-USE%"), "db "+pvc+" ü-wide-界")

	var b bytes.Buffer
	assert.NilError(t, printItems(&session{out: &b}, &b, output{format: "table", columns: []string{"mode", "name"}}, volumeColumns, someVolumes()[1:2]))
	assert.Equal(t, b.String(), "MODE  NAME\n      db\n")
	for _, o := range []output{{format: "table", columns: []string{"nome"}}, {format: "table", sort: "nome"}} {
		err := printItems(&session{out: &b}, &b, o, volumeColumns, someVolumes())
		assert.ErrorContains(t, err, `column must be one of name, size`)
		assert.Equal(t, ExitCode(err), ExitUsage)
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 90 * time.Second: "1m30s", 61 * time.Minute: "1h1m", 26 * time.Hour: "26h", 50 * time.Hour: "2d", 1000 * 24 * time.Hour: "1000d",
	} {
		assert.Equal(t, duration(d), want)
	}
}

func TestLabels(t *testing.T) {
	labels := agentapi.Labels{"c": "gone", "e": "stays"}
	assert.NilError(t, changeLabels(labels, []string{"a=1", "b=", "c-", "d=x-"}))
	assert.DeepEqual(t, labels, agentapi.Labels{"a": "1", "b": "", "d": "x-", "e": "stays"})
	for _, text := range []string{"a", "=b", ""} {
		assert.ErrorContains(t, changeLabels(labels, []string{text}), "KEY=VALUE")
	}
}

func TestProgress(t *testing.T) {
	assert.Equal(t, progress(1, 3, "x"), "[##########....................] 1/3 x")
}

// The default columns show faults, and need no room without faults.
func TestHealthIsShownWhereSomethingIsWrong(t *testing.T) {
	quarantined := &agentapi.VolumeHealth{Status: "degraded", Conditions: []agentapi.Condition{{Reason: agentapi.ReasonQuarantined}}}
	volumes, snapshots := someVolumes(), []snapshot{{Name: "s"}, {Name: "t"}}
	tables := func() string {
		var b bytes.Buffer
		assert.NilError(t, printItems(&session{out: &b}, &b, output{format: "table"}, volumeColumns, volumes))
		assert.NilError(t, printItems(&session{out: &b}, &b, output{format: "table"}, snapshotColumns, snapshots))
		return b.String()
	}
	volumes[0].Health, snapshots[0].Health = &agentapi.VolumeHealth{Status: agentapi.StatusOK}, &agentapi.VolumeHealth{Status: agentapi.StatusOK}
	assert.Assert(t, !strings.Contains(tables(), "HEALTH"), tables())
	volumes[1].Health, snapshots[1].Health = quarantined, quarantined
	assert.Equal(t, strings.Count(tables(), "HEALTH"), 2, tables())
	assert.Equal(t, strings.Count(tables(), agentapi.ReasonQuarantined), 2, tables())
}
