package nfsbench

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab"
)

// testEnv is the lab with this process as the storage host, and one worker node.
type testEnv struct {
	lab    *lab.Lab
	base   string // base path in the pool
	folder string // for other files
	node   *lab.Host
}

func newTestEnv() (env *testEnv, err error) {
	env = &testEnv{}
	env.lab, err = lab.Start(lab.Options{
		Nodes: 1, StorageInTest: true, NFSStopped: true, PoolSize: 2 << 30,
		// A periodic commit would look like a stall that publishing causes.
		PoolMountOptions: "commit=300",
	})
	if err != nil {
		return nil, err
	}
	env.base, env.node = env.lab.Pool, env.lab.Nodes[0]
	env.folder, err = os.MkdirTemp("", "nfsbench-")
	if err == nil {
		err = env.lab.Storage.StartDaemon("nfsdcld", "--foreground")
	}
	if err != nil {
		return nil, errors.Join(err, env.close())
	}
	return env, nil
}

func (env *testEnv) close() error {
	return errors.Join(env.forgetExports(), env.lab.Close(), os.RemoveAll(env.folder))
}

// onNode returns a command that runs in the node's namespaces.
func (env *testEnv) onNode(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := env.node.Command(ctx, name, args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// patience limits every wait.
const patience = time.Minute

// clientAddress spreads exports over a hundred clients, or over as many as there are permanent
// exports. So the client of a temporary export always has other exports.
func clientAddress(i, exports int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 97, 0, byte(i%min(100, exports-1) + 1)})
}
