package testpool

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"
)

// Damage changes the first block of a file on the device, without the filesystem. To find the
// block, it first writes a pattern to the start of the file. The file needs a separate block: at
// least 2 KiB.
func (p *Pool) Damage(file string) {
	p.t.Helper()
	needle := []byte("here lies the data that a test damages")
	if err := replaceStart(file, needle); err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
	unix.Sync()
	image, err := os.OpenFile(p.Image, os.O_RDWR, 0)
	if err != nil {
		p.t.Fatalf("testpool: %v", err)
	}
	defer image.Close()
	const block = 4096 // data begins at a sector
	buffer := make([]byte, 256*block)
	for at := int64(0); ; at += int64(len(buffer)) {
		n, err := image.ReadAt(buffer, at)
		if n == 0 {
			p.t.Fatalf("testpool: %s is not on the device: %v", file, err)
		}
		for i := 0; i < n; i += block {
			if !bytes.HasPrefix(buffer[i:n], needle) {
				continue
			}
			if _, err := image.WriteAt([]byte("damaged"), at+int64(i)); err != nil {
				p.t.Fatalf("testpool: %v", err)
			}
			return
		}
	}
}

// replaceStart rewrites the whole file, so that its start and the rest are contiguous.
func replaceStart(file string, start []byte) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	copy(content, start)
	return os.WriteFile(file, content, 0o600)
}
