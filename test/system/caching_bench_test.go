//go:build lab

package system_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

var cachingLoads = []struct{ name, script string }{
	{"create 400 files in 20 directories", `for d in $(seq 20); do mkdir d$d; for f in $(seq 20); do echo $d-$f > d$d/f$f; done; done`},
	{"rewrite them", `for d in $(seq 20); do for f in $(seq 20); do echo new-$f > d$d/f$f; done; done`},
	{"read them, twice", `for i in 1 2; do for d in $(seq 20); do for f in $(seq 20); do read v < d$d/f$f; done; done; done`},
	{"look for 100 names that are not there, ten times", `for i in $(seq 10); do for f in $(seq 100); do test -e d1/n$f || :; done; done`},
	{"look for a file six directories deep, 1,000 times", `mkdir -p a/b/c/d/e/f; echo > a/b/c/d/e/f/g; for i in $(seq 1000); do test -e a/b/c/d/e/f/g; done`},
	{"copy the Perl modules Test", `mkdir perl; cp -r $(perl -e 'print grep { -d "$_/Test" } @INC')/Test perl`},
	{"a Perl program that uses them, three times", `for i in 1 2 3; do perl -Iperl -MTest::More -MTest::Harness -e 1; done`},
	{"git add and commit of the 400", `export HOME=/tmp; git init -q repo; cp -r d* repo; git -C repo add .; git -C repo -c user.name=a -c user.email=a@b commit -qm x`},
	{"git status, twice", `export HOME=/tmp; for i in 1 2; do git -C repo -c safe.directory='*' status -s; done`},
	{"write and read a file of 12 MiB", `dd if=/dev/zero of=big bs=64k count=200 2>&1; dd if=big of=/dev/null bs=4k 2>&1`},
	{"remove it all", `rm -rf *`},
}

// BenchmarkCaching creates the table of docs/benchmarks.md: requests to the server, which are the
// same on any machine. One turn is enough (-benchtime 1x).
func BenchmarkCaching(b *testing.B) {
	s := system.New(b, system.Options{Lab: lab.Options{Nodes: 1}})
	table := map[string]string{}
	// The last one ends directory delegations on the node.
	for i, parameters := range []map[string]string{{"caching": "fast"}, {"nfsMountOptions": "lookupcache=positive"}, {"caching": "shared"}} {
		v := system.Create(b, s, fmt.Sprintf("v%d", i))
		_, err := s.CSI.ControllerModifyVolume(b.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: v.GetVolumeId(), MutableParameters: parameters})
		assert.NilError(b, err)
		pod := system.Attach(b, s, 0, v, system.AttachOptions{})
		for _, load := range cachingLoads {
			before := nfsRequests(b, pod)
			_, err := pod.ShellWithin(10*time.Minute, `cd "$V"; (`+load.script+`) > /dev/null`)
			assert.NilError(b, err)
			table[load.name] += fmt.Sprintf(" %.0f |", nfsRequests(b, pod)-before)
		}
	}
	for _, load := range cachingLoads { // b.Log would shorten it
		fmt.Printf("| %s |%s\n", load.name, table[load.name])
	}
}

// nfsRequests counts those of a pod's mount (proc_pid_mountstats(5)).
func nfsRequests(b *testing.B, pod *system.Attachment) (n float64) {
	out, err := pod.Shell(`awk -v m="$V" '/^device/ { of = $5 == m; ops = 0 } of && ops { n += $2 } /per-op/ { ops = 1 } END { print n }' /proc/self/mountstats`)
	assert.NilError(b, err)
	_, err = fmt.Sscan(out, &n)
	assert.NilError(b, err)
	return n
}
