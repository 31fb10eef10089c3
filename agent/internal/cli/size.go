package cli

import (
	"fmt"
	"math"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/bytesize"
)

func parseSize(text string) (int64, error) {
	size, err := bytesize.Parse(text)
	if err != nil {
		return 0, usageErrorf("%w", err)
	}
	return size, nil
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
	for _, u := range bytesize.Units[:5] {
		if float64(bytes) >= u.Bytes {
			value, unit = float64(bytes)/u.Bytes, u.Text
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
