package charttest

import (
	"testing"

	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

// lintIgnored are messages that do not apply.
const lintIgnored = "icon is recommended"

func lintChart(values map[string]any) []string {
	var out []string
	for _, message := range lint.All(chartDir, values, releaseNamespace, true).Messages {
		if message.Severity >= support.InfoSev && message.Err.Error() != lintIgnored {
			out = append(out, message.Error())
		}
	}
	return out
}

func TestLint(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			for _, message := range lintChart(values) {
				t.Error(message)
			}
		})
	}
}
