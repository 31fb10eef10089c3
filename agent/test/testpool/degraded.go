package testpool

import "os"

// LoseDevice unmounts the pool, removes its last device, and mounts the rest.
func (p *Pool) LoseDevice() {
	p.t.Helper()
	last := len(p.images) - 1
	if last == 0 {
		p.t.Fatal("testpool: the pool has one device only")
	}
	p.unmount()
	if err := os.Remove(p.images[last]); err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
	p.images = p.images[:last]
	p.options.MountOptions = joinOptions(p.options.MountOptions, "degraded")
	p.Mount()
}

func joinOptions(options, more string) string {
	if options == "" {
		return more
	}
	return options + "," + more
}
