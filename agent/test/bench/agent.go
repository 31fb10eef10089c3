package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// agent is a running agent process and the client side of its connections, which stay open.
type agent struct {
	process *exec.Cmd
	in      io.WriteCloser
	out     *json.Decoder
	client  *fasthttp.HostClient
	took    time.Duration // from the start of the process until it served
}

// startAgent starts the agent on the workbench, and waits until it serves.
func (w *workbench) startAgent(profile string) (a *agent, err error) {
	logFile := filepath.Join(w.host.TempDir(), "log")
	arguments := append(w.options.Server[1:len(w.options.Server):len(w.options.Server)], w.base, logFile, profile)
	a = &agent{process: exec.CommandContext(w.host.ctx, w.options.Server[0], arguments...)}
	a.process.Stderr = os.Stderr
	if a.in, err = a.process.StdinPipe(); err != nil {
		return nil, err
	}
	a.process.Cancel, a.process.WaitDelay = a.in.Close, 20*time.Second // an agent that drains closes the pool and its profile
	out, err := a.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := a.process.Start(); err != nil {
		return nil, err
	}
	a.out = json.NewDecoder(bufio.NewReader(out))
	var h hello
	if err := a.out.Decode(&h); err != nil {
		return nil, errors.Join(fmt.Errorf("the agent did not start: %w", err), a.stop())
	}
	a.client = &fasthttp.HostClient{
		Addr: h.Address, MaxConns: 256, ReadTimeout: time.Minute, WriteTimeout: time.Minute, NoDefaultUserAgentHeader: true,
		DisablePathNormalizing: true,
	}
	if _, err := a.do(http.MethodGet, "/readyz", "", http.StatusOK); err != nil {
		return nil, errors.Join(err, a.stop())
	}
	a.took = time.Since(begin)
	w.host.Cleanup(func() {
		if err := a.stop(); err != nil {
			w.host.Errorf("agent: %w", err)
		}
	})
	return a, nil
}

// stop drains the agent and waits for its end. It is idempotent.
func (a *agent) stop() error {
	if a.process.ProcessState != nil {
		return nil
	}
	if a.client != nil {
		a.client.CloseIdleConnections()
	}
	if err := a.in.Close(); err != nil && !errors.Is(err, os.ErrClosed) { // already closed if the run was interrupted
		return errors.Join(err, a.process.Wait())
	}
	return a.process.Wait()
}

// do sends one request and returns the body of the answer if it has the wanted status.
func (a *agent) do(method, path, body string, want int) ([]byte, error) {
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	request.Header.SetMethod(method)
	request.SetRequestURI("http://" + a.client.Addr + path)
	request.Header.Set(fasthttp.HeaderAuthorization, "Bearer "+token)
	request.SetBodyString(body)
	if err := a.client.Do(request, response); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode() != want {
		return nil, fmt.Errorf("%s %s: %d %s", method, path, response.StatusCode(), response.Body())
	}
	return append([]byte(nil), response.Body()...), nil
}

func (a *agent) post(path, body string, want int) error {
	_, err := a.do(http.MethodPost, path, body, want)
	return err
}

func (a *agent) get(path string) error {
	_, err := a.do(http.MethodGet, path, "", http.StatusOK)
	return err
}

func (a *agent) delete(path, body string) error {
	_, err := a.do(http.MethodDelete, path, body, http.StatusNoContent)
	return err
}

// cpu returns the agent's ownCPU.
func (a *agent) cpu() (time.Duration, error) {
	if _, err := io.WriteString(a.in, "usage\n"); err != nil {
		return 0, err
	}
	var u usage
	err := a.out.Decode(&u)
	return u.CPU, err
}

// memory returns the present resident set of the process in bytes: proc_pid_status(5).
func (a *agent) memory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, after, found := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(after)
	if !found || len(fields) == 0 {
		return 0, errors.New("/proc has no VmRSS")
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10, err
}
