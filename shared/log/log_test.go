package log

import (
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	charm "github.com/charmbracelet/log"
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

// Without a terminal the text is what charm's own styles write there.
func TestPlainText(t *testing.T) {
	var out, original strings.Builder
	logger, err := New(&out, "debug", "text")
	assert.NilError(t, err)
	reference := slog.New(charm.NewWithOptions(&original, charm.Options{Level: charm.DebugLevel, ReportTimestamp: true, TimeFormat: "-"}))
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		for _, l := range []*slog.Logger{logger, reference} {
			l.Log(t.Context(), level, "a message", "key", "value", "quoted", "a value", "lines", "one\ntwo", "empty", "", "number", 3)
		}
	}
	stamp := regexp.MustCompile(`(?m)^\d\S+Z `)
	assert.Equal(t, stamp.ReplaceAllString(out.String(), "- "), original.String())
}
