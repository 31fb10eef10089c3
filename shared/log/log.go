// Package log creates the loggers of all components, so that all logs have one format.
package log

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/charmbracelet/log"
)

// New returns a logger that writes to w at a level (debug, info, warn, error) in a format (text,
// json, logfmt). Empty values mean info, and text on a terminal and logfmt otherwise. Text is for
// humans. A line of text takes seven times as long as logfmt: 70 µs, as much as a fifth of the
// creation of a volume. Times are UTC, RFC 3339 with milliseconds.
func New(w io.Writer, level, format string) (*slog.Logger, error) {
	levels := map[string]log.Level{"": log.InfoLevel, "debug": log.DebugLevel, "info": log.InfoLevel, "warn": log.WarnLevel, "error": log.ErrorLevel}
	formats := map[string]log.Formatter{"": log.LogfmtFormatter, "text": log.TextFormatter, "json": log.JSONFormatter, "logfmt": log.LogfmtFormatter}
	l, ok := levels[strings.ToLower(level)]
	if !ok {
		return nil, fmt.Errorf("log level must be debug, info, warn or error, got %q", level)
	}
	f, ok := formats[strings.ToLower(format)]
	if !ok {
		return nil, fmt.Errorf("log format must be text, json or logfmt, got %q", format)
	}
	if format == "" && isTerminal(w) {
		f = log.TextFormatter
	}
	return slog.New(log.NewWithOptions(w, log.Options{
		Level: l, Formatter: f, ReportTimestamp: true, TimeFunction: log.NowUTC, TimeFormat: "2006-01-02T15:04:05.000Z07:00",
	})), nil
}

// isTerminal also returns true for other character devices. Colors do no harm there.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
