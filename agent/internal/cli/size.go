package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// units of sizes, the longest text first. As in Kubernetes, Ki is 1024 and K is 1000.
var units = []struct {
	text  string
	bytes float64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"Pi", 1 << 50},
	{"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"P", 1e15},
}

// parseSize reads "10Gi", "1.5T", "10GiB" or a number of bytes. The unit's case does not count.
func parseSize(text string) (int64, error) {
	number, factor := strings.TrimSpace(text), 1.0
	upper := strings.TrimSuffix(strings.ToUpper(number), "B")
	for _, unit := range units {
		if strings.HasSuffix(upper, strings.ToUpper(unit.text)) {
			number, factor = number[:len(upper)-len(unit.text)], unit.bytes
			break
		}
	}
	value, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	bytes := math.Round(value * factor)
	// A float is exact up to 2^53, which 8 PiB is.
	if err != nil || !(bytes > 0 && bytes <= 1<<53) {
		return 0, usageErrorf("%q is no size: write 500Mi, 10Gi, 1.5Ti (or K, M, G, T for powers of 1000) or bytes", text)
	}
	return int64(bytes), nil
}

// resized is what "20Gi" (that size) or "+5Gi" (so much more) makes of a size.
func resized(now int64, text string) (int64, error) {
	more, relative := strings.CutPrefix(strings.TrimSpace(text), "+")
	if strings.HasPrefix(more, "-") {
		return 0, usageErrorf("%q: a volume does not shrink; clone what you need into a smaller one", text)
	}
	size, err := parseSize(more)
	if err != nil {
		return 0, err
	}
	if relative {
		size += now
	}
	return size, nil
}

// humanSize is a size in three digits: 1.5Gi, 20Gi, 512Mi.
func humanSize(bytes int64) string {
	if bytes < 1<<10 {
		return fmt.Sprintf("%dB", bytes)
	}
	value, unit := float64(bytes), ""
	for _, u := range units[:5] {
		if float64(bytes) >= u.bytes {
			value, unit = float64(bytes)/u.bytes, u.text
		}
	}
	if value < 10 && value != math.Trunc(value) {
		return fmt.Sprintf("%.1f%s", value, unit)
	}
	return fmt.Sprintf("%.0f%s", value, unit)
}

// percent is how much of a size is used.
func percent(part, whole int64) string {
	if whole <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*float64(part)/float64(whole))
}
