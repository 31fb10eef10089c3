package driver_test

import (
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/agents"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/controllertest"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/fakeagent"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/test/testenv"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/onsi/ginkgo/v2/internal/interrupt_handler.(*InterruptHandler).registerForInterrupts.func2")) // Ginkgo keeps it for the life of the process
}

// inMemory is the suite's backend without btrfs and NFS.
type inMemory struct{}

func (inMemory) Agent(t *testing.T, tenants map[string]string) string {
	agent := fakeagent.New(tenants)
	url := agent.Start()
	t.Cleanup(agent.Close)
	return url
}

func (inMemory) Controller(t *testing.T, classes []controllertest.Class) grpc.ClientConnInterface {
	static, _ := testenv.Static(t, classes)
	return testenv.Serve(t, agents.NewRegistry(nil, static, testenv.Clients(t, testenv.AgentTimeout)), nil)
}

func TestBehaviour(t *testing.T) { controllertest.Run(t, inMemory{}) }
