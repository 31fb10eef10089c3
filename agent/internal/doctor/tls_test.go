package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

// An agent on all addresses is found by its certificate, whatever that names: nodes do not call it
// localhost.
func TestAgentWithTLS(t *testing.T) {
	for name, names := range map[string]x509.Certificate{
		"name":     {DNSNames: []string{"nas.example.org"}},
		"wildcard": {DNSNames: []string{"*.example.org"}},
		"address":  {IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			c := secured(t, names)
			listener, err := net.Listen("tcp", ":0")
			assert.NilError(t, err)
			_, port, err := net.SplitHostPort(listener.Addr().String())
			assert.NilError(t, err)
			c.ListenAddr = ":" + port
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(agentapi.Health{Status: "ok", Version: version.Version})
			})}
			go func() { _ = server.ServeTLS(listener, c.TLSCert, c.TLSKey) }()
			defer server.Close()
			h := imagine(t)
			assert.Assert(t, is.Contains(say(checkPorts(t.Context(), h.Host, c)), "ok: the agent listens on "+c.ListenAddr))
			assert.Assert(t, is.Contains(say(checkAgent(t.Context(), h.Host, c)), "ok: "+version.Version))

			// Another program on that port does not have the agent's key.
			other := secured(t, names)
			other.ListenAddr = c.ListenAddr
			assert.Assert(t, is.Contains(say(checkPorts(t.Context(), h.Host, other)), "another program listens"))
		})
	}
}

func secured(t *testing.T, template x509.Certificate) config.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	assert.NilError(t, err)
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	cert, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	assert.NilError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	assert.NilError(t, err)
	dir := t.TempDir()
	c := settings("")
	c.TLSCert, c.TLSKey = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	assert.NilError(t, os.WriteFile(c.TLSCert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
	assert.NilError(t, os.WriteFile(c.TLSKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return c
}
