// Package results tests the summary that results.awk makes of a test run.
package results

import (
	"os/exec"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// A silently skipped test proves nothing to a reader of the summary.
func TestWhatIsSaidOfARun(t *testing.T) {
	for said, want := range map[string]string{
		"lab: up\n=== RUN   TestA\n    a_test.go:1: noise\n--- PASS: TestA (0.00s)\nPASS\nok  \tpkg\t0.1s\n": "lab: up\nok  \tpkg\t0.1s\n",

		"=== RUN   TestB\n=== RUN   TestB/old\n    b_test.go:2: this kernel cannot\n=== RUN   TestB/new\nnoise\n" +
			"--- PASS: TestB (0.00s)\n    --- SKIP: TestB/old (0.00s)\n    --- PASS: TestB/new (0.00s)\nPASS\nok  \tpkg\t0.1s\n": "    --- SKIP: TestB/old (0.00s)\n    b_test.go:2: this kernel cannot\nok  \tpkg\t0.1s\n",

		"=== RUN   TestC\n    c_test.go:3: broken\n--- FAIL: TestC (0.00s)\nFAIL\nFAIL\tpkg\t0.1s\nFAIL\n": "--- FAIL: TestC (0.00s)\n    c_test.go:3: broken\nFAIL\nFAIL\tpkg\t0.1s\nFAIL\n",

		"=== RUN   TestD\npanic: oh\n\ngoroutine 1\nFAIL\tpkg\t0.1s\n": "=== TestD\npanic: oh\n\ngoroutine 1\nFAIL\tpkg\t0.1s\n",
	} {
		awk := exec.Command("awk", "-f", "results.awk")
		awk.Stdin = strings.NewReader(said)
		out, err := awk.CombinedOutput()
		assert.NilError(t, err, string(out))
		assert.Equal(t, string(out), want)
	}
}
