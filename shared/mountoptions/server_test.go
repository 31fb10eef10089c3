package mountoptions_test

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/mountoptions"
)

func TestCheckServer(t *testing.T) {
	for _, server := range []string{"10.0.0.1", "fd00::1", "::ffff:10.0.0.1", "storage", "storage_1.example.com", "storage.example.com.", "STORAGE-1"} {
		assert.NilError(t, mountoptions.CheckServer(server), server)
	}
	for _, server := range []string{
		"", " ", "-o", "a b", "a/b", "a:b", "a,b", "[fd00::1]", "fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "größe", ".", "a..b", "a-",
		"a\nb", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a",
	} {
		err := mountoptions.CheckServer(server)
		assert.ErrorContains(t, err, "must be", "%q", server)
		assert.ErrorContains(t, err, "got", "%q", server)
	}
}
