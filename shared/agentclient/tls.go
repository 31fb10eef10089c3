package agentclient

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// TLSFiles are PEM files for https agents. The zero value trusts the system's authorities.
type TLSFiles struct {
	CA   string // trusted authorities instead of the system's
	Cert string // client certificate; requires Key
	Key  string
	// ServerName is the name that the agent's certificate must have. Empty means the URL's host.
	ServerName string
}

// config reads the client certificate for each handshake, so that a renewed certificate takes
// effect without a restart.
func (f TLSFiles) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName}
	if f.CA != "" {
		var err error
		if config.RootCAs, err = Authorities(f.CA); err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, fmt.Errorf("client certificate and key must be set together")
	}
	if f.Cert == "" {
		return config, nil
	}
	if _, err := f.certificate(); err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.certificate() }
	return config, nil
}

func (f TLSFiles) certificate() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("read client certificate: %w", err)
	}
	return &pair, nil
}

// Authorities reads the certificates of a PEM file, which must have at least one. Servers that
// request client certificates also use it.
func Authorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}
