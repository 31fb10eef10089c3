//go:build lab

package system_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/system"
)

// The statements of docs/operations/databases.md about SQLite: with a write-ahead log on one node,
// with another journal on several.
func TestSQLite(t *testing.T) {
	const each = 300
	s := system.New(t, system.Options{Lab: lab.Options{Nodes: 2}})
	v := system.Create(t, s, "v")
	one, two := system.Attach(t, s, 0, v, system.AttachOptions{}), system.Attach(t, s, 1, v, system.AttachOptions{})
	for _, test := range []struct {
		name  string
		mode  string
		pods  []*system.Attachment
		works bool
	}{
		{"one-node", "wal", []*system.Attachment{one, one}, true},
		{"persist", "persist", []*system.Attachment{one, two}, true},
		{"two-nodes", "wal", []*system.Attachment{one, two}, false},
	} {
		sql := func(pod *system.Attachment, input string) (string, error) {
			out, err := pod.Node.Run("sh", "-ec", `cd "$0"; (`+input+`) | sqlite3 -bail -cmd '.timeout 20000' `+test.name+`.db 2>&1`, pod.Target)
			return strings.TrimSpace(out), err
		}
		out, err := sql(one, "echo 'PRAGMA journal_mode="+test.mode+"; CREATE TABLE t (a);'")
		assert.NilError(t, err, out)
		var writers errgroup.Group
		for _, pod := range test.pods {
			writers.Go(func() error {
				out, err := sql(pod, fmt.Sprintf("for i in $(seq %d); do echo 'INSERT INTO t VALUES (1);'; done", each))
				if err != nil {
					err = fmt.Errorf("%w: %s", err, out)
				}
				return err
			})
		}
		err = writers.Wait()
		out, _ = sql(one, "echo 'SELECT count(*) FROM t; PRAGMA integrity_check;'")
		t.Logf("%s: %v, then %q", test.name, err, out)
		whole := err == nil && out == fmt.Sprintf("%d\nok", 2*each)
		assert.Equal(t, whole, test.works)
	}
}
