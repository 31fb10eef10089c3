package nfsbench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/api"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/pool"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

// crowded is the engine under measurement. It hides the other exports from the agent.
type crowded struct {
	nfs.Exporter
	own string

	// instead holds exports that are published one by one instead of those of the agent, until none is
	// left.
	instead []nfs.Export
}

// Export implements nfs.Exporter.
func (c *crowded) Export(ctx context.Context, exports []nfs.Export) error {
	if len(c.instead) > 0 {
		exports, c.instead = c.instead[:1], c.instead[1:]
	}
	return c.Exporter.Export(ctx, exports)
}

// Start implements nfs.Exporter. The engine is already started.
func (c *crowded) Start(ctx context.Context, initial []nfs.Export) error {
	return c.Export(ctx, initial)
}

// List implements nfs.Exporter.
func (c *crowded) List(ctx context.Context) ([]nfs.Export, error) {
	all, err := c.Exporter.List(ctx)
	var own []nfs.Export
	for _, export := range all {
		if nfs.Below(c.own, export.Path) {
			own = append(own, export)
		}
	}
	return own, err
}

const (
	tenant = "bench"
	token  = "token-of-the-benchmark"
)

// measureHTTP publishes a volume of an agent to one client after another, and then to the same
// clients again. The second time, the references are already on disk, so that no commit is
// necessary. The engine still publishes a new export each time.
func (r *run) measureHTTP(ctx context.Context, row *Row) (err error) {
	base := filepath.Join(r.base, "agent")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler) // the log would slow down the guest's console
	engine := &crowded{Exporter: r.engine, own: base}
	config := storage.Config{BasePath: base, Tenants: []string{tenant}, Logger: quiet}
	if _, _, err := pool.Init(config.Pool()); err != nil {
		return err
	}
	store, err := storage.Open(ctx, config, engine)
	if err != nil {
		return err
	}
	tokens := &api.Tokens{}
	tokens.Add(tenant, token)
	server := api.New(api.Config{Store: apiStore{store}, Tokens: tokens, Logger: quiet})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, store.Close(ctx))
	}
	var serving errgroup.Group
	serving.Go(func() error { return server.Serve(listener) })
	fresh := r.take(singles)
	repeated := func() { engine.instead = fresh }
	err = publishOverHTTP(&fasthttp.HostClient{Addr: listener.Addr().String(), ReadTimeout: patience}, row, repeated)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err = errors.Join(err, server.Shutdown(drain), serving.Wait(), store.Close(drain))
	return errors.Join(err, r.engine.Unexport(drain, fresh))
}

type apiStore struct{ *storage.Store }

func (s apiStore) Tenant(name string) (api.Tenant, error) { return s.Store.Tenant(name) }

func publishOverHTTP(client *fasthttp.HostClient, row *Row, repeated func()) error {
	defer client.CloseIdleConnections()
	const volume = "/v1/volumes/measured"
	if err := do(client, http.MethodPost, "/v1/volumes", `{"name":"measured","size_bytes":1048576}`, http.StatusCreated); err != nil {
		return err
	}
	body := func(i int) string {
		return fmt.Sprintf(`{"client":%q,"labels":{"node":"worker-1"}}`, netip.AddrFrom4([4]byte{10, 98, 0, byte(i + 1)}))
	}
	each := func(most int, method, path string, body func(int) string) (Times, error) {
		var took []time.Duration
		for i, deadline := 0, time.Now().Add(mostTime); i < most && time.Now().Before(deadline); i++ {
			began := time.Now()
			if err := do(client, method, path, body(i), http.StatusOK); err != nil {
				return Times{}, err
			}
			took = append(took, time.Since(began))
		}
		return timesOf(took), nil
	}
	publish := func(most int) (Times, error) { return each(most, http.MethodPost, volume+"/export", body) }
	var err error
	if row.HTTPGet, err = each(singles, http.MethodGet, volume, func(int) string { return "" }); err != nil {
		return err
	}
	if row.HTTP, err = publish(singles); err != nil {
		return err
	}
	repeated()
	unix.Sync() // the publishes without commits must not include the writes of the commits before
	if row.HTTPRepeated, err = publish(row.HTTP.Count); err != nil {
		return err
	}
	for i := range row.HTTP.Count {
		if err := do(client, http.MethodDelete, volume+"/export", body(i), http.StatusNoContent); err != nil {
			return err
		}
	}
	return do(client, http.MethodDelete, volume, "", http.StatusNoContent)
}

func do(client *fasthttp.HostClient, method, path, body string, want int) error {
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	request.Header.SetMethod(method)
	request.SetRequestURI("http://" + client.Addr + path)
	request.Header.Set(fasthttp.HeaderAuthorization, "Bearer "+token)
	request.SetBodyString(body)
	if err := client.Do(request, response); err != nil {
		return err
	}
	if response.StatusCode() != want {
		return fmt.Errorf("%s %s: %d %s", method, path, response.StatusCode(), strings.TrimSpace(string(response.Body())))
	}
	return nil
}
