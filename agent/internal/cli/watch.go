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

// watching is whether, and how often, a command shows its result anew.
type watching struct {
	on    bool
	every time.Duration
}

const leastInterval = 100 * time.Millisecond

func (w *watching) addTo(command *cobra.Command) {
	command.Flags().BoolVarP(&w.on, "watch", "w", false, "show it anew, in place, until interrupted")
	command.Flags().DurationVar(&w.every, "interval", 2*time.Second, "how often --watch looks")
}

// show prints once, or again and again until the user interrupts, which is no error. An agent that does not answer for a
// while ends nothing: the picture stays, with the reason below it.
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

// canvas draws text over the text before. What is longer or wider than the terminal is cut, for lines that wrap or scroll
// could not be drawn over.
type canvas struct {
	s             *session
	lines         int // drawn last
	width, height int // of the terminal then
}

func newCanvas(s *session) *canvas { return &canvas{s: s} }

func (c *canvas) draw(text string) {
	width, height := sizeOf(c.s.out)
	if width == 0 { // a pipe or a file: one picture after the other
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
		// A terminal that changes its size wraps and moves what it shows: nobody knows where.
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
