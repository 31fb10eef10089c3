// Package bytesize reads sizes as people write them.
package bytesize

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Units of sizes, the longest text first. As in Kubernetes, Ki is 1024 and K is 1000.
var Units = []struct {
	Text  string
	Bytes float64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"Pi", 1 << 50},
	{"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"P", 1e15},
}

// Parse reads "10Gi", "1.5T", "10GiB" or a number of bytes. The unit's case does not count.
func Parse(text string) (int64, error) {
	number, factor := strings.TrimSpace(text), 1.0
	upper := strings.TrimSuffix(strings.ToUpper(number), "B")
	for _, unit := range Units {
		if strings.HasSuffix(upper, strings.ToUpper(unit.Text)) {
			number, factor = number[:len(upper)-len(unit.Text)], unit.Bytes
			break
		}
	}
	value, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	bytes := math.Round(value * factor)
	// A float is exact up to 2^53, which 8 PiB is.
	if err != nil || !(bytes > 0 && bytes <= 1<<53) {
		return 0, fmt.Errorf("size must be like 500Mi, 10Gi or 1.5Ti (K, M, G, T for powers of 1000), or in bytes, got %q", text)
	}
	return int64(bytes), nil
}
