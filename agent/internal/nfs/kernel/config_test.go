package kernel

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestThreads(t *testing.T) {
	for cores, want := range map[int]int{1: 16, 2: 16, 3: 24, 8: 64, 32: 256, 33: 256, 512: 256} {
		assert.Equal(t, threadsFor(cores), want, "%d cores", cores)
	}
	threads := Config{}.withDefaults().Server.Threads
	assert.Assert(t, threads >= 16 && threads <= 256, "%d", threads)
	assert.Equal(t, Config{Server: ServerConfig{Threads: 3}}.withDefaults().Server.Threads, 3)
}
