package agentclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// answer serves one fixed answer to all requests.
func answer(t *testing.T, status int, contentType, body string) *Client {
	t.Helper()
	return clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}, Options{})
}

func clientOf(t *testing.T, handler http.HandlerFunc, o Options) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := New(server.URL, o)
	assert.NilError(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestErrorsAreTyped(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		code   agentapi.Code
		text   string
	}{
		{404, `{"error":"there is no volume \"v\"","code":"NOT_FOUND"}`, agentapi.NotFound, `there is no volume "v"`},
		{423, `{"error":"exported","code":"BUSY"}`, agentapi.Busy, "exported"},
		{500, `{"error":"empty","code":"METADATA_ERROR"}`, agentapi.MetadataError, "empty"},
		{502, `<html>Bad Gateway</html>`, agentapi.Unavailable, "502"},
		{500, ``, agentapi.InternalError, "500"},
		{409, `{"error":"x","code":"NEW_CODE"}`, agentapi.AlreadyExists, "x"},
		{302, ``, agentapi.InternalError, "302"},
	} {
		_, err := answer(t, c.status, "application/json", c.body).GetVolume(t.Context(), "v")
		assert.Equal(t, agentapi.CodeOf(err), c.code, c.body)
		assert.ErrorContains(t, err, c.text)
	}
}

func TestGarbageIsNotTakenForAnAnswer(t *testing.T) {
	for name, c := range map[string]*Client{
		"HTML":      answer(t, 200, "text/html", "<html>login</html>"),
		"cut JSON":  answer(t, 200, "application/json", `{"name":"v"`),
		"no type":   answer(t, 200, "", `{}`),
		"wrong one": answer(t, 200, "application/json", `{"size_bytes":"many"}`),
	} {
		_, err := c.GetVolume(t.Context(), "v")
		assert.Equal(t, agentapi.CodeOf(err), agentapi.InternalError, name)
	}
}

// A delete that a foreign server answers with 200 is an error.
func TestOnlyAnAgentDeletes(t *testing.T) {
	c := answer(t, 200, "application/json", `{}`)
	for name, err := range map[string]error{
		"volume":   c.DeleteVolume(t.Context(), "v"),
		"snapshot": c.DeleteSnapshot(t.Context(), "s"),
		"export":   c.Unexport(t.Context(), "v", agentapi.UnexportRequest{Client: "10.0.0.1"}),
	} {
		assert.Equal(t, agentapi.CodeOf(err), agentapi.InternalError, name)
	}
}

func TestUnreachable(t *testing.T) {
	c, err := New("http://127.0.0.1:1", Options{})
	assert.NilError(t, err)
	assert.Equal(t, agentapi.CodeOf(c.DeleteVolume(t.Context(), "v")), agentapi.Unavailable)
}

func TestDeadlines(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	hang := func(http.ResponseWriter, *http.Request) { <-release }

	c := clientOf(t, hang, Options{Timeout: 50 * time.Millisecond})
	assert.ErrorIs(t, c.DeleteVolume(t.Context(), "v"), context.DeadlineExceeded)

	c = clientOf(t, hang, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, c.DeleteVolume(ctx, "v"), context.DeadlineExceeded)
}

func TestRequestCarriesTokenAndID(t *testing.T) {
	var got *http.Request
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.WriteHeader(http.StatusNoContent)
	}, Options{Token: "secret", UserAgent: "test/1", RequestID: func(context.Context) string { return "id-7" }})
	assert.NilError(t, c.Unexport(t.Context(), "v", agentapi.UnexportRequest{Client: "10.0.0.1"}))
	assert.Equal(t, got.Method+" "+got.URL.Path, "DELETE /v1/volumes/v/export")
	assert.Equal(t, got.Header.Get("Authorization"), "Bearer secret")
	assert.Equal(t, got.Header.Get("User-Agent"), "test/1")
	assert.Equal(t, got.Header.Get(agentapi.RequestIDHeader), "id-7")
}

func TestUsageTokenIsSentAlone(t *testing.T) {
	var got http.Header
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"quota_bytes":5,"used_bytes":3,"health":{"status":"ok"}}`)
	}, Options{})
	usage, err := c.UsageWithToken(t.Context(), "v", "capability")
	assert.NilError(t, err)
	assert.Equal(t, usage.UsedBytes, int64(3))
	assert.Equal(t, got.Get(agentapi.UsageTokenHeader), "capability")
	assert.Equal(t, got.Get("Authorization"), "")
}

// A redirect must not send the token to another server.
func TestRedirectIsNotFollowed(t *testing.T) {
	followed := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed = true }))
	defer other.Close()
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}, Options{Token: "secret"})
	assert.ErrorContains(t, c.DeleteVolume(t.Context(), "v"), "307")
	assert.Assert(t, !followed)
}

func TestPagesAreWalked(t *testing.T) {
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("after"))
		next := ""
		if page < 2 {
			next = strconv.Itoa(page + 1)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"volumes":[{"name":"v%d-a"},{"name":"v%d-b"}],"total":6,"next":%q}`, page, page, next)
	}, Options{})
	var names []string
	for v, err := range c.Volumes(t.Context(), "a=b") {
		assert.NilError(t, err)
		names = append(names, v.Name)
	}
	assert.DeepEqual(t, names, []string{"v0-a", "v0-b", "v1-a", "v1-b", "v2-a", "v2-b"})
}

func TestPagesThatDoNotAdvanceEnd(t *testing.T) {
	c := answer(t, 200, "application/json", `{"volumes":[{"name":"v"}],"total":1,"next":"x"}`)
	var last error
	n := 0
	for _, err := range c.Volumes(t.Context()) {
		n++
		last = err
	}
	assert.ErrorContains(t, last, "does not advance")
	assert.Equal(t, n, 3)
}

func TestParseURL(t *testing.T) {
	for _, good := range []string{"http://10.0.0.1:8080", "https://agent.example", "http://[fd00::1]:8080", "http://h:1/prefix"} {
		_, err := ParseURL(good)
		assert.NilError(t, err)
	}
	for _, bad := range []string{"", "10.0.0.1:8080", "ftp://h", "http://", "http://user:pw@h", "http://h?x=1", "http://h#x", "http://h:port", "http://\x00"} {
		_, err := ParseURL(bad)
		assert.Assert(t, err != nil, "%q was accepted", bad)
		assert.Assert(t, !errors.Is(err, os.ErrNotExist))
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	certificate := server.TLS.Certificates[0]
	ca := writePEM(t, dir, "ca.pem", "CERTIFICATE", certificate.Certificate[0])
	key := writeKey(t, dir, certificate)

	for name, c := range map[string]struct {
		files TLSFiles
		works bool
	}{
		"trusted with a certificate":    {TLSFiles{CA: ca, Cert: ca, Key: key}, true},
		"trusted without a certificate": {TLSFiles{CA: ca}, false},
		"foreign authority":             {TLSFiles{}, false},
	} {
		client, err := New(server.URL, Options{TLS: c.files})
		assert.NilError(t, err, name)
		err = client.DeleteVolume(t.Context(), "v")
		client.Close()
		assert.Equal(t, err == nil, c.works, "%s: %v", name, err)
		if !c.works {
			assert.Equal(t, agentapi.CodeOf(err), agentapi.Unavailable)
		}
	}
}

func TestTLSFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	assert.NilError(t, os.WriteFile(empty, nil, 0o600))
	for name, files := range map[string]TLSFiles{
		"missing CA":            {CA: filepath.Join(dir, "none")},
		"empty CA":              {CA: empty},
		"certificate alone":     {Cert: empty},
		"key alone":             {Key: empty},
		"no PEM in certificate": {Cert: empty, Key: empty},
	} {
		_, err := New("https://h", Options{TLS: files})
		assert.Assert(t, err != nil, name)
	}
}

func writePEM(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	assert.NilError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

func writeKey(t *testing.T, dir string, c tls.Certificate) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	assert.NilError(t, err)
	return writePEM(t, dir, "key.pem", "PRIVATE KEY", der)
}

// An unreachable host answers nothing, not even a refusal. The call fails long before its timeout.
func TestAHostThatIsGone(t *testing.T) {
	t.Parallel()
	c, err := New("http://"+blackHole(t), Options{})
	assert.NilError(t, err)
	t.Cleanup(c.Close)
	begin := time.Now()
	_, err = c.Health(t.Context())
	assert.Equal(t, agentapi.CodeOf(err), agentapi.Unavailable, "%v", err)
	assert.Assert(t, time.Since(begin) < DefaultTimeout/2, "took %s", time.Since(begin))
}

// blackHole returns an address whose kernel drops connection attempts: the socket's queue is full
// and no process accepts (net/ipv4/tcp_input.c, tcp_conn_request).
func blackHole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, syscall.Close(fd)) })
	assert.NilError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	assert.NilError(t, syscall.Listen(fd, 0))
	bound, err := syscall.Getsockname(fd)
	assert.NilError(t, err)
	address := fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
	for range 10 {
		conn, err := net.DialTimeout("tcp", address, 500*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { assert.NilError(t, conn.Close()) })
	}
	t.Fatal("the queue is never full")
	return ""
}
