package api

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// Fault 17 of the existing project: no HTTP timeouts. Here the server closes the connection of a
// silent or slow client.

const soon = 100 * time.Millisecond

func impatient(c *Config) { c.ReadTimeout, c.IdleTimeout = soon, soon }

func TestSlowRequestsAreCutOff(t *testing.T) {
	h := start(t, impatient)
	for name, sent := range map[string]string{
		"nothing":        "",
		"half a line":    "GET /healthz HT",
		"half a header":  "GET /healthz HTTP/1.1\r\nHost: x\r\nX-",
		"half a body":    "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + tokenA + "\r\nContent-Length: 100\r\n\r\n{",
		"half a chunk":   "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
		"an idle minute": "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", h.address)
		assert.NilError(t, err)
		_, err = io.WriteString(conn, sent)
		assert.NilError(t, err)
		assert.NilError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = io.Copy(io.Discard, conn) // until the server closes
		assert.Check(t, !errors.Is(err, os.ErrDeadlineExceeded), "%s: the connection stayed open", name)
		assert.NilError(t, conn.Close())
	}
}

// Sending byte by byte does not extend the time.
func TestTricklesAreCutOff(t *testing.T) {
	h := start(t, impatient)
	conn, err := net.Dial("tcp", h.address)
	assert.NilError(t, err)
	defer conn.Close()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_, _ = io.Copy(io.Discard, conn)
	}()
	ticker := time.NewTicker(soon / 10)
	defer ticker.Stop()
	tooLate := time.After(10 * time.Second)
	_, err = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nX-Long: ")
	for err == nil {
		select {
		case <-closed:
			return
		case <-tooLate:
			t.Fatal("the connection stayed open")
		case <-ticker.C:
			_, err = io.WriteString(conn, "x")
		}
	}
}

// The read timeout does not limit the operation.
func TestSlowOperationsAreNotCutOff(t *testing.T) {
	const readTimeout = time.Second // the request itself needs time too on a busy machine
	h := start(t, func(c *Config) { c.ReadTimeout, c.IdleTimeout = readTimeout, readTimeout })
	h.a().deleteVolume = func(string) error {
		<-time.After(2 * readTimeout)
		return nil
	}
	assert.Equal(t, h.do("DELETE", "/v1/volumes/v", "").status, http.StatusNoContent)
}

// The response to an unreadable request is also JSON.
func TestUnreadableRequest(t *testing.T) {
	h := start(t)
	for _, sent := range []string{
		"GARBAGE\r\n\r\n", "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", h.address)
		assert.NilError(t, err)
		_, err = io.WriteString(conn, sent)
		assert.NilError(t, err)
		assert.NilError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		assert.NilError(t, err, "%q", sent)
		body, err := io.ReadAll(response.Body)
		assert.NilError(t, err)
		assert.Check(t, response.StatusCode >= 400 && response.StatusCode < 500, "%q: %d", sent, response.StatusCode)
		answer{response.StatusCode, response.Header, body}.code(t)
		assert.NilError(t, conn.Close())
	}
}
