package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

const barWidth = 30

// forEach runs an operation for each name, and continues after a failure. On a terminal it shows a
// progress bar.
func (s *session) forEach(ctx context.Context, names []string, done string, do func(s *session, ctx context.Context, name string) error) error {
	_, terminal := terminalOf(s.err)
	bar := terminal && len(names) > 1
	var failed []error
	for i, name := range names {
		if bar {
			s.say("\r%s%s", progress(i, len(names), name), ansi.EraseLineRight)
		}
		err := do(s, ctx, name)
		if bar {
			s.say("\r%s", ansi.EraseLineRight)
		}
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("interrupted after %d of %d: %w", i, len(names), ctx.Err())
		case err == nil:
			fmt.Fprintf(s.out, "%s %s\n", done, name)
		case len(names) == 1:
			return err
		default:
			s.say("%s: %s\n", name, Explain(err))
			failed = append(failed, err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &commandError{code: ExitCode(failed[0]), cause: errors.New(plural(len(failed), len(names)))}
}

func plural(failed, all int) string { return fmt.Sprintf("%d of %d failed", failed, all) }

func progress(done, all int, name string) string {
	full := barWidth * done / all
	return fmt.Sprintf("[%s%s] %d/%d %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), done, all, name)
}
