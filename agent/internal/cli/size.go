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

// resized parses "20Gi" (a size) or "+5Gi" (an increase).
func resized(now int64, text string) (int64, error) {
	more, relative := strings.CutPrefix(strings.TrimSpace(text), "+")
	if strings.HasPrefix(more, "-") {
		return 0, usageErrorf("size must not be smaller than the volume, got %q: copy the data to a smaller volume", text)
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

// humanSize formats a size with three digits: 1.5Gi, 20Gi, 512Mi.
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

// percent formats the used part of a size.
func percent(part, whole int64) string {
	if whole <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*float64(part)/float64(whole))
}
