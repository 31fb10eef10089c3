package log

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

func TestFormatsAndLevels(t *testing.T) {
	var out strings.Builder
	logger, err := New(&out, "WARN", "json")
	assert.NilError(t, err)
	logger.Info("quiet")
	logger.Warn("loud", "key", "a value")
	var line struct{ Time, Level, Msg, Key string }
	assert.NilError(t, json.Unmarshal([]byte(out.String()), &line), out.String())
	assert.Equal(t, line.Msg+" "+line.Level+" "+line.Key, "loud warn a value")
	at, err := time.Parse(time.RFC3339, line.Time)
	assert.NilError(t, err)
	assert.Equal(t, at.Location(), time.UTC)

	out.Reset()
	logger, err = New(&out, "", "")
	assert.NilError(t, err)
	logger.Debug("quiet")
	logger.Info("loud", "key", "a value\nand a line")
	assert.Assert(t, cmp.Regexp(`^time=\S+Z level=info msg=loud key="a value\\nand a line"\n$`, out.String()))

	out.Reset()
	logger, err = New(&out, "", "text")
	assert.NilError(t, err)
	logger.Info("loud", "key", "a value")
	assert.Assert(t, cmp.Regexp(`^\S+Z INFO loud key="a value"\n$`, out.String()))
}

func TestBadSettings(t *testing.T) {
	for _, c := range [][2]string{{"verbose", ""}, {"", "xml"}} {
		_, err := New(&strings.Builder{}, c[0], c[1])
		assert.ErrorContains(t, err, "must be")
	}
}
