package storage

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/labels"
)

func FuzzCursor(f *testing.F) {
	for _, seed := range []string{"v", "v\x0010.0.0.1", "", "\x00", "../v", "\xff"} {
		f.Add(cursor(seed))
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		// For any input: no panic, and an accepted position begins with a name.
		got, err := position(text)
		if err != nil || text == "" {
			return
		}
		name, _, _ := strings.Cut(got, "\x00")
		assert.NilError(t, validateName("name", name))
		again, err := position(cursor(got))
		assert.NilError(t, err)
		assert.Equal(t, again, got)
	})
}

func FuzzCompression(f *testing.F) {
	for _, seed := range append(slices.Clone(badCompressions), "", "none", "lzo", "zstd", "zstd:1", "zstd:15", "zlib", "zlib:9") {
		f.Add(seed)
	}
	valid := []string{"", "none", "lzo", "zstd", "zlib"}
	for level := range 15 {
		valid = append(valid, "zstd:"+string("123456789"[min(level, 8)]))
		if level >= 9 {
			valid = append(valid, "zstd:1"+string("012345"[level-9]))
		} else {
			valid = append(valid, "zlib:"+string("123456789"[level]))
		}
	}
	f.Fuzz(func(t *testing.T, value string) {
		assert.Equal(t, ValidateCompression(value) == nil, slices.Contains(valid, value), "%q", value)
	})
}

func FuzzDecodeMetadata(f *testing.F) {
	v := Volume{Name: "v", Labels: labels.Of(map[string]string{"a": "b"}), SourceVolume: "w", CreatedAt: now(), UpdatedAt: now(), LastAttachAt: now()}
	v.Properties = Properties{SizeBytes: mib, QuotaBytes: mib, Compression: "zstd:3", UID: 1, GID: 2, Mode: 0o2770}
	good, err := v.metadata().encode()
	assert.NilError(f, err)
	f.Add(good)
	for _, seed := range []string{"", " ", "null", "{}", "[]", `{"version":1}`, `{"version":1,"name":"v","mode":"8"}`, `{"version":2,"name":"v","mode":"7"}`, "\x00\x00",
		`{"version":1,"name":"../v","mode":"7"}`, `{"version":1,"name":"v","mode":"7","size_bytes":-1}`, `{"version":1,"name":"v","mode":"-7"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		m, err := decodeMetadata(content)
		if err != nil {
			return
		}
		// Accepted metadata is accepted again with the same value after a write.
		assert.NilError(t, validateName("name", m.Name))
		volume, err := m.volume()
		assert.NilError(t, err)
		snapshot, err := m.snapshot()
		assert.NilError(t, err)
		assert.Assert(t, volume.SizeBytes >= 0 && volume.QuotaBytes >= 0 && volume.Mode <= 0o7777)
		written, err := volume.metadata().encode()
		assert.NilError(t, err)
		again, err := decodeMetadata(written)
		assert.NilError(t, err)
		back, err := again.volume()
		assert.NilError(t, err)
		assert.DeepEqual(t, back.Labels, volume.Labels, cmpopts.EquateEmpty())
		assert.Equal(t, back.Properties, volume.Properties)
		assert.Assert(t, back.CreatedAt.Equal(volume.CreatedAt))
		_, err = snapshot.metadata().encode()
		assert.NilError(t, err)
	})
}
