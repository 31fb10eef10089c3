package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
)

func TestRenewedCertificateIsUsed(t *testing.T) {
	dir, log := t.TempDir(), &logBuffer{}
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writePair(t, certFile, keyFile, 1)
	config, err := TLSConfig(TLSFiles{Cert: certFile, Key: keyFile}, slog.New(slog.NewTextHandler(log, nil)))
	assert.NilError(t, err)
	assert.Equal(t, servedSerial(t, config), int64(1))

	writePair(t, certFile, keyFile, 2)
	assert.Equal(t, servedSerial(t, config), int64(2))

	// A half-written pair is not used until it is complete.
	assert.NilError(t, os.WriteFile(certFile, []byte("garbage"), 0o600))
	assert.Equal(t, servedSerial(t, config), int64(2))
	assert.Check(t, strings.Contains(log.String(), "old ones stay"))
	assert.NilError(t, os.Remove(keyFile))
	assert.Equal(t, servedSerial(t, config), int64(2))
	writePair(t, certFile, keyFile, 3)
	assert.Equal(t, servedSerial(t, config), int64(3))
}

// Kubernetes and other tools renew certificates by changing a symbolic link. The new files may be
// older and have the same size.
func TestCertificateBehindALink(t *testing.T) {
	dir := t.TempDir()
	for serial, name := range map[int64]string{1: "one", 2: "two"} {
		assert.NilError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		writePair(t, filepath.Join(dir, name, "crt"), filepath.Join(dir, name, "key"), serial)
	}
	link := filepath.Join(dir, "now")
	assert.NilError(t, os.Symlink("one", link))
	config, err := TLSConfig(TLSFiles{Cert: filepath.Join(link, "crt"), Key: filepath.Join(link, "key")}, slog.New(slog.DiscardHandler))
	assert.NilError(t, err)
	assert.Equal(t, servedSerial(t, config), int64(1))
	assert.NilError(t, os.Remove(link))
	assert.NilError(t, os.Symlink("two", link))
	assert.Equal(t, servedSerial(t, config), int64(2))
}

func TestNoCertificateToBeginWith(t *testing.T) {
	dir := t.TempDir()
	good, other := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	writePair(t, good+".crt", good+".key", 1)
	writePair(t, other+".crt", other+".key", 2)
	fifo := filepath.Join(dir, "fifo")
	assert.NilError(t, unix.Mkfifo(fifo, 0o600))
	for _, pair := range [][2]string{{"/none", good + ".key"}, {fifo, good + ".key"}, {good + ".crt", fifo}, {good + ".crt", "/none"}, {good + ".crt", other + ".key"}, {good + ".key", good + ".crt"}} {
		_, err := TLSConfig(TLSFiles{Cert: pair[0], Key: pair[1]}, slog.New(slog.DiscardHandler))
		assert.ErrorContains(t, err, "TLS: ")
	}
}

// With AGENT_TLS_CLIENT_CA, a client needs a certificate of that authority before it can send a
// request. The authority may change.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	server, client, stranger := filepath.Join(dir, "server"), filepath.Join(dir, "client"), filepath.Join(dir, "stranger")
	for i, name := range []string{server, client, stranger} {
		writePair(t, name+".crt", name+".key", int64(i))
	}
	ca := filepath.Join(dir, "ca.crt")
	trust := func(name string) {
		pem, err := os.ReadFile(name + ".crt")
		assert.NilError(t, err)
		assert.NilError(t, os.WriteFile(ca+".new", pem, 0o600))
		assert.NilError(t, os.Rename(ca+".new", ca))
	}
	trust(client)
	config, err := TLSConfig(TLSFiles{Cert: server + ".crt", Key: server + ".key", ClientCA: ca}, slog.New(slog.DiscardHandler))
	assert.NilError(t, err)

	assert.NilError(t, accepted(t, config, client))
	assert.ErrorContains(t, accepted(t, config, stranger), "unknown authority")
	assert.ErrorContains(t, accepted(t, config, ""), "didn't provide a certificate")
	trust(stranger)
	assert.NilError(t, accepted(t, config, stranger))
	assert.ErrorContains(t, accepted(t, config, client), "unknown authority")
	// An empty file gives no client access.
	assert.NilError(t, os.WriteFile(ca, nil, 0o600))
	assert.ErrorContains(t, accepted(t, config, client), "unknown authority")
	assert.ErrorContains(t, accepted(t, config, ""), "didn't provide a certificate")
	_, err = TLSConfig(TLSFiles{Cert: server + ".crt", Key: server + ".key", ClientCA: ca}, slog.New(slog.DiscardHandler))
	assert.ErrorContains(t, err, "holds no certificate")
}

// accepted returns the error of the server for a client with this pair, or without one.
func accepted(t *testing.T, config *tls.Config, pair string) error {
	t.Helper()
	show := &tls.Config{InsecureSkipVerify: true, ServerName: "agent"}
	if pair != "" {
		certificate, err := tls.LoadX509KeyPair(pair+".crt", pair+".key")
		assert.NilError(t, err)
		// Send it whatever authorities the server names.
		show.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	_, err := handshake(t, config, show)
	return err
}

// servedSerial connects and returns the serial number of the served certificate.
func servedSerial(t *testing.T, config *tls.Config) int64 {
	t.Helper()
	client, err := handshake(t, config, &tls.Config{InsecureSkipVerify: true, ServerName: "agent"})
	assert.NilError(t, err)
	return client.PeerCertificates[0].SerialNumber.Int64()
}

// handshake returns the connection state of the client, and the error of the server.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	served := make(chan error, 1)
	go func() {
		served <- tls.Server(theirs, server).Handshake()
		theirs.Close()
	}()
	conn := tls.Client(ours, client)
	assert.NilError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_ = conn.Handshake() // in TLS 1.3 it ends before the server has verified the client
	_, _ = conn.Read(make([]byte, 1))
	return conn.ConnectionState(), <-served
}

func writePair(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	assert.NilError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"agent"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	assert.NilError(t, err)
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	assert.NilError(t, err)
	writePEM(t, certFile, "CERTIFICATE", cert)
	writePEM(t, keyFile, "PRIVATE KEY", keyBytes)
}

// writePEM replaces the file, as tools that renew certificates do.
func writePEM(t *testing.T, file, kind string, content []byte) {
	t.Helper()
	assert.NilError(t, os.WriteFile(file+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600))
	assert.NilError(t, os.Rename(file+".new", file))
}

func TestServingTLS(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	writePair(t, certFile, keyFile, 1)
	config, err := TLSConfig(TLSFiles{Cert: certFile, Key: keyFile}, slog.New(slog.DiscardHandler))
	assert.NilError(t, err)
	tokens := &Tokens{}
	tokens.Add("a", tokenA)
	tenant := &fakeTenant{t: t, listVolumes: func(storage.Query) (p storage.Page[storage.Volume], _ error) { return p, nil }}
	store := &fakeStore{t: t, tenants: map[string]*fakeTenant{"a": tenant}}
	server := New(Config{Store: store, Tokens: tokens, Logger: slog.New(slog.DiscardHandler)})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	guarded := Guard(listener).(*guardedListener)
	served := make(chan error, 1)
	go func() { served <- server.Serve(tls.NewListener(guarded, config)) }()

	pem, err := os.ReadFile(certFile)
	assert.NilError(t, err)
	trusted := x509.NewCertPool()
	assert.Assert(t, trusted.AppendCertsFromPEM(pem))
	client := http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: "agent"}},
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequest(http.MethodGet, "https://"+listener.Addr().String()+"/v1/volumes", nil)
	assert.NilError(t, err)
	request.Header.Set("Authorization", "Bearer "+tokenA)
	response, err := client.Do(request)
	assert.NilError(t, err)
	assert.NilError(t, response.Body.Close())
	assert.Equal(t, response.StatusCode, 200)
	guarded.strangers.mu.Lock()
	assert.Check(t, guarded.strangers.count == 0, "a tenant counts as a stranger")
	guarded.strangers.mu.Unlock()
	assert.NilError(t, server.Shutdown(t.Context()))
	assert.NilError(t, <-served)
}
