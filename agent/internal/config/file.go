package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode/utf8"
)

// UseFile sets the variables of a unit's environment file in this process, as systemd does for the
// unit. A variable that is already set keeps its value. A missing file is no error.
func UseFile(path string) error {
	settings, err := readFile(path)
	if err != nil {
		return err
	}
	for _, s := range settings {
		if _, set := os.LookupEnv(s.name); set {
			continue
		}
		if err := os.Setenv(s.name, s.value); err != nil {
			return fmt.Errorf("%s: set %q: %w", path, s.name, err)
		}
	}
	return nil
}

// FromFile reads one variable of a unit's environment file. It returns "" if the file does not set
// it.
func FromFile(path, name string) (string, error) {
	settings, err := readFile(path)
	if err != nil {
		return "", err
	}
	value := ""
	for _, s := range settings {
		if s.name == name {
			value = s.value
		}
	}
	return value, nil
}

// setting is one assignment of an environment file. The last one of each name counts.
type setting struct{ name, value string }

func readFile(path string) ([]setting, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(content) {
		return nil, fmt.Errorf("%s must be UTF-8, or systemd does not read it", path)
	}
	settings, err := parseFile(string(content))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return settings, nil
}

// parseFile reads the text of an environment file (systemd.exec(5), EnvironmentFile=). A line that
// is not an assignment is an error here, and systemd ignores it. The error contains no part of the
// line, which may be a token.
func parseFile(text string) ([]setting, error) {
	var settings []setting
	for rest := text; rest != ""; {
		line, after, _ := strings.Cut(rest, "\n")
		trimmed := strings.TrimLeft(line, blank)
		if trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';' {
			rest = after
			continue
		}
		name, _, found := strings.Cut(trimmed, "=")
		if !found {
			number := 1 + strings.Count(text[:len(text)-len(rest)], "\n")
			return nil, fmt.Errorf("line %d must be NAME=VALUE", number)
		}
		value, end := parseValue(rest[strings.IndexByte(rest, '=')+1:])
		settings = append(settings, setting{strings.TrimRight(name, blank), value})
		rest = end
	}
	return settings, nil
}

const blank = " \t\r"

// parseValue reads a value and returns the text after it, as parse_env_file_internal in systemd's
// src/basic/env-file.c does:
//   - Blanks around a value or a quoted part are dropped.
//   - Between single quotes each character stands for itself.
//   - Between double quotes a backslash before one of "\`$ is dropped. Before another character it
//     stays.
//   - Without quotes a backslash is dropped before each character.
//   - A line continues after a backslash, except between single quotes, and inside quotes.
func parseValue(text string) (value, rest string) {
	var out strings.Builder
	quote := byte(0) // the open quotation mark
	started := false // inside text without quotes, where quotation marks and blanks count
	kept := 0        // length of the value without trailing blanks
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote != 0 && c == quote:
			quote, started, kept = 0, false, out.Len()
		case c == '\\' && quote != '\'':
			i++
			out.WriteString(unescape(text[i:min(i+1, len(text))], quote))
			started, kept = quote == 0, out.Len()
		case quote != 0:
			out.WriteByte(c)
		case c == '\n':
			return out.String()[:kept], text[i+1:]
		case !started && (c == '"' || c == '\''):
			quote = c
		case strings.IndexByte(blank, c) >= 0:
			if started {
				out.WriteByte(c)
			}
		default:
			out.WriteByte(c)
			started, kept = true, out.Len()
		}
	}
	if quote != 0 {
		kept = out.Len()
	}
	return out.String()[:kept], ""
}

// unescape returns the meaning of a backslash and the character after it.
func unescape(c string, quote byte) string {
	switch {
	case c == "\n":
		return ""
	case quote == '"' && !strings.ContainsAny(c, "\"\\`$"):
		return `\` + c
	}
	return c
}
