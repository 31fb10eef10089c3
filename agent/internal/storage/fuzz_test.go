package storage

import (
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
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
