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

func TestModes(t *testing.T) {
	for text, want := range map[string]uint32{"0": 0, "755": 0o755, "0755": 0o755, "07777": 0o7777} {
		mode, err := ParseMode(text)
		assert.NilError(t, err)
		assert.Equal(t, mode, want)
	}
	for _, text := range []string{"", "8", "0o755", "0x1ff", "-1", "+7", " 755", "755 ", "rwxr-xr-x", "10000", "77777", "000755", "7_7", "7.5", "٧", "\x00", strings.Repeat("7", 1000)} {
		_, err := ParseMode(text)
		assert.ErrorContains(t, err, "must be an octal number", "%q", text)
	}
}

func FuzzMode(f *testing.F) {
	for _, seed := range []string{"", "0", "755", "0755", "07777", "10000", "+7", "0o7", "7_7", "-1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		mode, err := ParseMode(text)
		if err != nil {
			return
		}
		again, err := ParseMode(FormatMode(mode))
		if mode > 0o7777 || err != nil || again != mode {
			t.Fatalf("%q is %o, which is written %q", text, mode, FormatMode(mode))
		}
	})
}
