package nfsmount

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

func TestParameterIsTurnedOff(t *testing.T) {
	parameter := filepath.Join(t.TempDir(), "parameter")
	assert.NilError(t, turnOff(parameter), "an older kernel has none")
	_, err := os.Stat(parameter)
	assert.Assert(t, os.IsNotExist(err))

	assert.NilError(t, os.WriteFile(parameter, []byte("Y\n"), 0o644))
	assert.NilError(t, turnOff(parameter))
	content, err := os.ReadFile(parameter)
	assert.NilError(t, err)
	assert.Equal(t, string(content), "N\n")

	assert.ErrorContains(t, turnOff(filepath.Dir(parameter)), "is a directory")
}
