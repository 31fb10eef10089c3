package nfsbench

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/test/bench/document"
)

// Sizes of the plot, in pixels.
const (
	panelWidth, panelHeight = 320.0, 300.0
	left, right, top, below = 56.0, 16.0, 44.0, 48.0
	legendHeight            = 28.0
)

// colors of the engines, which people with color blindness can distinguish.
var colors = map[string]string{"kernel": "#0072b2", "exportfs": "#d55e00"}

var panels = []struct {
	title string
	value func(Row) time.Duration
}{
	{"One publish, p50", func(r Row) time.Duration { return r.Publish.P50 }},
	{"One revoke, p50", func(r Row) time.Duration { return r.Revoke.P50 }},
	{"Longest stall of another mount", func(r Row) time.Duration { return r.Busy.Longest }},
	{"All back after a restart", func(r Row) time.Duration { return r.Restore }},
}

// Plot draws times over the number of exports as an SVG. Both axes are logarithmic.
func Plot(rows []Row) string {
	var b strings.Builder
	width, height := panelWidth*float64(len(panels)), panelHeight+legendHeight
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="11">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%.0f" height="%.0f" fill="#fff"/>`+"\n", width, height)
	for i, panel := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%.0f 0)">`+"\n", float64(i)*panelWidth)
		drawPanel(&b, panel.title, rows, panel.value)
		b.WriteString("</g>\n")
	}
	for i, engine := range []string{"kernel", "exportfs"} {
		x := left + float64(i)*120
		fmt.Fprintf(&b, `<path d="M%.0f %.0fh24" stroke="%s" stroke-width="2"/><text x="%.0f" y="%.0f">%s engine</text>`+"\n",
			x, panelHeight+10, colors[engine], x+30, panelHeight+14, engine)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// axis maps powers of ten to pixels.
type axis struct {
	low, high  float64 // exponents
	from, size float64
}

func (a axis) at(value float64) float64 {
	return a.from + (math.Log10(value)-a.low)/(a.high-a.low)*a.size
}

func axisOf(values []float64, from, size float64) axis {
	a := axis{low: math.Inf(1), high: math.Inf(-1), from: from, size: size}
	for _, v := range values {
		a.low, a.high = min(a.low, math.Floor(math.Log10(v))), max(a.high, math.Ceil(math.Log10(v)))
	}
	if len(values) == 0 {
		a.low, a.high = 0, 1
	}
	a.high = max(a.high, a.low+1)
	return a
}

func drawPanel(b *strings.Builder, title string, rows []Row, value func(Row) time.Duration) {
	var counts, times []float64
	for _, row := range rows {
		if v := value(row); v > 0 {
			counts, times = append(counts, float64(row.Exports)), append(times, v.Seconds())
		}
	}
	x := axisOf(counts, left, panelWidth-left-right)
	y := axisOf(times, panelHeight-below, -(panelHeight - below - top))
	fmt.Fprintf(b, `<text x="%.0f" y="24" font-size="13" font-weight="bold">%s</text>`+"\n", left, title)
	for e := y.low; e <= y.high; e++ {
		at := y.at(math.Pow(10, e))
		fmt.Fprintf(b, `<path d="M%.1f %.1fH%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, at, panelWidth-right, left-6, at+4, powerOfTen(e))
	}
	for e := x.low; e <= x.high; e++ {
		at := x.at(math.Pow(10, e))
		fmt.Fprintf(b, `<path d="M%.1f %.1fV%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n",
			at, top, panelHeight-below, at, panelHeight-below+16, thousands(int(math.Pow(10, e))))
	}
	fmt.Fprintf(b, `<text x="%.0f" y="%.0f" text-anchor="middle">exports</text>`+"\n", (left+panelWidth-right)/2, panelHeight-12)
	for _, engine := range []string{"kernel", "exportfs"} {
		drawLine(b, engine, rows, value, x, y)
	}
}

func drawLine(b *strings.Builder, engine string, rows []Row, value func(Row) time.Duration, x, y axis) {
	var points []string
	for _, row := range rows {
		if v := value(row); row.Engine == engine && v > 0 {
			cx, cy := x.at(float64(row.Exports)), y.at(v.Seconds())
			points = append(points, fmt.Sprintf("%.1f,%.1f", cx, cy))
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s, %s exports: %s</title></circle>`+"\n",
				cx, cy, colors[engine], engine, thousands(row.Exports), document.Duration(v))
		}
	}
	if len(points) > 0 {
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), colors[engine])
	}
}

// powerOfTen formats 10^e seconds.
func powerOfTen(e float64) string {
	d := time.Duration(math.Round(math.Pow(10, e+9)))
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%d s", d/time.Second)
	case d >= time.Millisecond:
		return fmt.Sprintf("%d ms", d/time.Millisecond)
	}
	return fmt.Sprintf("%d µs", d/time.Microsecond)
}
