package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// patience is long enough for a slow machine, and shorter than a read timeout.
const patience = 10 * time.Second

// dial connects to the server, with a deadline for the whole exchange.
func (h *harness) dial() net.Conn {
	h.t.Helper()
	return h.dialFrom("127.0.0.1")
}

func (h *harness) dialFrom(address string) net.Conn {
	h.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	conn, err := dialer.Dial("tcp", h.address)
	assert.NilError(h.t, err)
	h.t.Cleanup(func() { conn.Close() })
	assert.NilError(h.t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// readAnswer reads the only response on a connection, which the server then closes.
func readAnswer(t *testing.T, conn net.Conn) answer {
	t.Helper()
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	assert.NilError(t, err)
	body, err := io.ReadAll(response.Body)
	assert.NilError(t, err)
	rest, err := io.ReadAll(reader)
	assert.NilError(t, err)
	assert.Equal(t, string(rest), "", "more than one answer")
	return answer{response.StatusCode, response.Header, body}
}

// A client without a token gets its response after the header, whatever body the header announces.
func TestBodiesOfStrangersAreNotRead(t *testing.T) {
	h := start(t, func(c *Config) { c.ReadTimeout = 2 * patience })
	const post = "POST /v1/volumes HTTP/1.1\r\nHost: x\r\n"
	for name, request := range map[string]string{
		"length":              post + "Content-Length: 1000000\r\n\r\n",
		"one byte":            post + "Content-Length: 1\r\n\r\n",
		"over the limit":      post + "Content-Length: 99999999999\r\n\r\n",
		"chunked":             post + "Transfer-Encoding: chunked\r\n\r\n",
		"half a chunk":        post + "Transfer-Encoding: chunked\r\n\r\nfffff\r\n{",
		"both":                post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		"continue":            post + "Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n",
		"continue chunked":    post + "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
		"form":                post + "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n--b\r\n",
		"wrong token":         post + "Authorization: Bearer wrong\r\nContent-Length: 1000000\r\n\r\n",
		"wrong password":      post + "Authorization: " + basic("a", "wrong") + "\r\nContent-Length: 1000000\r\n\r\n",
		"a request as a body": post + "Content-Length: 100\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
		"no such route":       "DELETE /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
		"usage token":         "POST /v1/volumes/v/usage HTTP/1.1\r\nHost: x\r\nX-Usage-Token: x\r\nContent-Length: 1000000\r\n\r\n",
	} {
		conn := h.dial()
		_, err := io.WriteString(conn, request)
		assert.NilError(t, err)
		got := readAnswer(t, conn)
		assert.Equal(t, got.status, http.StatusUnauthorized, name)
		assert.Equal(t, got.code(t), agentapi.Unauthorized)
	}
	conn := h.dial()
	_, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
	assert.NilError(t, err)
	assert.Equal(t, readAnswer(t, conn).status, http.StatusOK)
}

// Clients without a token that keep sending get the response too, because the server closes the
// connection gracefully.
func TestStrangersThatSendOnGetTheirAnswer(t *testing.T) {
	h := start(t)
	body := strings.Repeat("x", agentapi.MaxBodyBytes)
	for range 20 {
		got := h.do("POST", "/v1/volumes", body, "Authorization", "Bearer wrong")
		assert.Equal(t, got.status, http.StatusUnauthorized)
	}
}

// The server still reads the body of a tenant: it sends 100 Continue on request, and limits size
// and time.
func TestBodiesOfTenantsAreRead(t *testing.T) {
	h := start(t, impatient)
	const post = "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + tokenA + "\r\n"
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"not an object":    {post + "Content-Length: 2\r\n\r\n[]", http.StatusBadRequest},
		"a form":           {post + "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 2\r\n\r\n[]", http.StatusBadRequest},
		"over the limit":   {post + "Content-Length: 1048577\r\n\r\n", http.StatusRequestEntityTooLarge},
		"a chunk too long": {post + "Transfer-Encoding: chunked\r\n\r\n100001\r\n", http.StatusRequestEntityTooLarge},
		"too slow":         {post + "Content-Length: 100\r\n\r\n{", http.StatusRequestTimeout},
		"a chunk too slow": {post + "Transfer-Encoding: chunked\r\n\r\n5\r\n{", http.StatusRequestTimeout},
	} {
		conn := h.dial()
		_, err := io.WriteString(conn, c.request)
		assert.NilError(t, err)
		assert.Equal(t, readAnswer(t, conn).status, c.status, name)
	}

	conn := h.dial()
	_, err := io.WriteString(conn, post+"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	assert.NilError(t, err)
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	assert.NilError(t, err)
	assert.Equal(t, line, "HTTP/1.1 100 Continue\r\n")
}

// A compressed megabyte could be a gigabyte.
func TestCompressedBodiesAreRefused(t *testing.T) {
	h := start(t)
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	fmt.Fprint(w, `{"name":"v","size_bytes":1048576}`)
	assert.NilError(t, w.Close())
	got := h.do("POST", "/v1/volumes", compressed.String(), "Content-Encoding", "gzip")
	assert.Equal(t, got.status, http.StatusBadRequest)
}

// Connections without a token do not keep a tenant from being served, whether they come from one
// address or from many.
func TestIdleStrangersShutNobodyOut(t *testing.T) {
	for name, sources := range map[string]int{"one address": 1, "many addresses": 100} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			h.a().listVolumes = func(storage.Query) (p storage.Page[storage.Volume], _ error) { return p, nil }
			early := h.dial() // of a tenant, and kept open
			ask(t, early)
			silent := h.dialFrom("127.0.1.1") // the oldest one without a token, but the only one of its address

			dialer := net.Dialer{Timeout: patience}
			var first net.Conn
			for i := range maxConnections + 100 {
				dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 2, byte(i%sources+1))}
				conn, err := dialer.Dial("tcp", h.address)
				assert.NilError(t, err)
				t.Cleanup(func() { conn.Close() })
				if first == nil {
					first = conn
				}
			}
			assert.NilError(t, first.SetReadDeadline(time.Now().Add(patience)))
			_, err := first.Read(make([]byte, 1))
			assert.Assert(t, err != nil && !errors.Is(err, os.ErrDeadlineExceeded), "the first stranger is still connected: %v", err)

			ask(t, early)
			ask(t, silent)
			ask(t, h.dial())
		})
	}
}

// ask sends a request of a tenant on a connection that stays open.
func ask(t *testing.T, conn net.Conn) {
	t.Helper()
	_, err := io.WriteString(conn, "GET /v1/volumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+tokenA+"\r\n\r\n")
	assert.NilError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	assert.NilError(t, err)
	_, err = io.Copy(io.Discard, response.Body)
	assert.NilError(t, err)
	assert.Equal(t, response.StatusCode, http.StatusOK)
}

// The limit holds whatever clients do with their connections. A connection no longer counts when it
// ends or the token of a tenant arrives.
func TestStrangersAreCounted(t *testing.T) {
	h := start(t)
	h.a().listVolumes = func(storage.Query) (p storage.Page[storage.Volume], _ error) { return p, nil }
	strangers := &h.listener.strangers
	counted := func(want int) {
		t.Helper()
		poll.WaitOn(t, func(poll.LogT) poll.Result {
			strangers.mu.Lock()
			defer strangers.mu.Unlock()
			if strangers.count == want {
				return poll.Success()
			}
			return poll.Continue("%d strangers, want %d", strangers.count, want)
		}, poll.WithTimeout(patience))
	}
	tenant, probe, idle := h.dial(), h.dial(), h.dial()
	counted(3)
	ask(t, tenant)
	counted(2)
	_, err := io.WriteString(probe, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	assert.NilError(t, err)
	_, err = probe.Read(make([]byte, 1))
	assert.NilError(t, err)
	counted(2)
	assert.NilError(t, idle.Close())
	counted(1)
	assert.NilError(t, probe.Close())
	counted(0)
	ask(t, tenant)
	assert.NilError(t, tenant.Close())
	counted(0)
	assert.Equal(t, len(strangers.bySource), 0)
}
