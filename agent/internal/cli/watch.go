package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
)

// watching is whether, and how often, a command repeats its output.
type watching struct {
	on    bool
	every time.Duration
}

const leastInterval = 100 * time.Millisecond

func (w *watching) addTo(command *cobra.Command) {
	command.Flags().BoolVarP(&w.on, "watch", "w", false, "update the output in place until interrupted")
	command.Flags().DurationVar(&w.every, "interval", 2*time.Second, "interval of --watch")
}

// repeat completes a command that prints once, or with --watch repeatedly.
func (w *watching) repeat(command *cobra.Command, names []string, render func(s *session, ctx context.Context, args []string, w io.Writer, out output) error) *output {
	var out output
	command.RunE = with(func(s *session, command *cobra.Command, args []string) error {
		if err := out.validate(); err != nil {
			return err
		}
		ctx := command.Context()
		return w.show(ctx, s, func(to io.Writer) error { return render(s, ctx, args, to, out) })
	})
	out.addTo(command, names)
	w.addTo(command)
	return &out
}

// show prints once, or repeatedly until the user interrupts, which is no error. If the agent does
// not answer for a while, the output stays, with the error below it.
func (w watching) show(ctx context.Context, s *session, render func(io.Writer) error) error {
	if !w.on {
		return render(s.out)
	}
	if w.every < leastInterval {
		return usageErrorf("--interval must be at least %v", leastInterval)
	}
	canvas := newCanvas(s)
	defer canvas.end()
	ticker := time.NewTicker(w.every)
	defer ticker.Stop()
	var last bytes.Buffer
	for {
		var now bytes.Buffer
		err := render(&now)
		switch {
		case ctx.Err() != nil:
			return nil
		case ExitCode(err) == ExitUsage || ExitCode(err) == ExitDenied:
			return err
		case err != nil:
			canvas.draw(last.String() + "\n" + err.Error() + "\n")
		default:
			last = now
			canvas.draw(last.String())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// canvas overwrites its last text. It truncates text to the terminal's size, because wrapped or
// scrolled lines cannot be overwritten.
type canvas struct {
	s             *session
	lines         int // number of lines of the last text
	width, height int // size of the terminal at that time
}

func newCanvas(s *session) *canvas { return &canvas{s: s} }

func (c *canvas) draw(text string) {
	width, height := sizeOf(c.s.out)
	if width == 0 { // a pipe or a file: append
		fmt.Fprint(c.s.out, text, "\n")
		return
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if room := max(height-1, 2); len(lines) > room {
		hidden := len(lines) - (room - 1)
		lines = append(lines[:room-1], fmt.Sprintf("... %d more lines", hidden))
	}
	var b strings.Builder
	b.WriteString(ansi.HideCursor)
	switch {
	case c.lines == 0:
	case width != c.width || height != c.height:
		// A terminal that changes its size wraps and moves its content to unknown positions.
		b.WriteString(ansi.EraseEntireScreen + ansi.CursorHomePosition)
	default:
		b.WriteString(ansi.CursorUp(c.lines))
	}
	for _, line := range lines {
		b.WriteString("\r" + ansi.Truncate(line, width, "…") + ansi.EraseLineRight + "\n")
	}
	b.WriteString(ansi.EraseScreenBelow)
	c.lines, c.width, c.height = len(lines), width, height
	_, _ = io.WriteString(c.s.out, b.String())
}

func (c *canvas) end() {
	if c.lines > 0 {
		_, _ = io.WriteString(c.s.out, ansi.ShowCursor)
	}
}
