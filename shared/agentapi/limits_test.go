package agentapi

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func TestCompression(t *testing.T) {
	for _, good := range []string{"none", "lzo", "zstd", "zstd:1", "zstd:15", "zlib", "zlib:9"} {
		assert.NilError(t, CheckCompression(good))
	}
	for _, bad := range []string{"", "gzip", "zstd:0", "zstd:16", "zlib:10", "lzo:1", "none:1", "zstd:", " zstd", "zstd:01", "ZSTD", "zstd:3:3", "zstd:-1"} {
		assert.Assert(t, CheckCompression(bad) != nil, "%q was accepted", bad)
	}
}

func TestLabels(t *testing.T) {
	for key, value := range map[string]string{"a": "", "0": "A.b_c-", strings.Repeat("k", 63): strings.Repeat("v", 128), "a._-": "x"} {
		assert.NilError(t, CheckLabel(key, value))
	}
	for _, bad := range []string{"", "A", "-a", ".a", "a/b", "a b", "ü", strings.Repeat("k", 64), "a\n"} {
		assert.ErrorContains(t, CheckLabel(bad, "v"), "key")
	}
	for _, bad := range []string{"a b", "a/b", "ü", "\n", strings.Repeat("v", 129)} {
		assert.ErrorContains(t, CheckLabel("k", bad), "value")
	}
}

func TestRequestID(t *testing.T) {
	for _, good := range []string{"a", "7", "req-42", "A.b_c:d-e", strings.Repeat("x", 64)} {
		assert.Assert(t, ValidRequestID(good), good)
	}
	for _, bad := range []string{"", "-x", "a b", "a/b", `x"y`, "a=b", "grün", "a\n", strings.Repeat("x", 65)} {
		assert.Assert(t, !ValidRequestID(bad), bad)
	}
}
