package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// printer writes a line for each step: in color on a terminal, plain in a log.
type printer struct {
	out     io.Writer
	colour  bool
	begin   time.Time
	counted int
}

func newPrinter(out *os.File) *printer {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &printer{out: out, colour: (err == nil || os.Getenv("BNC_COLOR") != "") && os.Getenv("NO_COLOR") == "", begin: time.Now()}
}

const (
	green = "32"
	red   = "31"
	bold  = "1"
	faint = "2"
)

func (p *printer) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p *printer) title(text string) { fmt.Fprintf(p.out, "%s\n\n", p.paint(bold, text)) }

func (p *printer) line(text string) { fmt.Fprintln(p.out, text) }

// step prints the name of the step, runs it, and prints its duration and result.
func (p *printer) step(name string, do func() (string, error)) error {
	p.counted++
	fmt.Fprintf(p.out, "%2d  %s ...", p.counted, name)
	begin := time.Now()
	seen, err := do()
	took := took(time.Since(begin))
	if err != nil {
		fmt.Fprintf(p.out, " %s\n", p.paint(red, "failed after "+took))
		return fmt.Errorf("step %d, %s: %w", p.counted, name, err)
	}
	fmt.Fprintf(p.out, " %s %s\n", p.paint(green, "ok"), p.paint(faint, took))
	for line := range strings.SplitSeq(seen, "\n") {
		if line != "" {
			fmt.Fprintf(p.out, "      %s\n", p.paint(faint, line))
		}
	}
	return nil
}

func (p *printer) done() {
	fmt.Fprintf(p.out, "\n%s\n", p.paint(green, fmt.Sprintf("All %d steps went as they should, in %s.", p.counted, took(time.Since(p.begin)))))
}

func (p *printer) fail(err error) {
	fmt.Fprintf(os.Stderr, "\n%s %v\n", p.paint(red, "demo failed:"), err)
}

func took(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
