package log

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
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
	assert.Check(t, strings.Contains(out.String(), "loud") && !strings.Contains(out.String(), "quiet"), out.String())
}

func TestBadSettings(t *testing.T) {
	for _, c := range [][2]string{{"verbose", ""}, {"", "xml"}} {
		_, err := New(&strings.Builder{}, c[0], c[1])
		assert.ErrorContains(t, err, "must be")
	}
}
