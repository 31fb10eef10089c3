package api

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// TLSConfig serves the certificate and key of two PEM files, and reads them again when either changes, so that a renewed
// certificate is used without a restart. While the new pair cannot be read (half of it is written, say), the old one
// stays in use and the log says so. It fails where there is no good pair to begin with.
func TLSConfig(certFile, keyFile string, logger *slog.Logger) (*tls.Config, error) {
	pair := &certificate{certFile: certFile, keyFile: keyFile, logger: logger}
	if err := pair.load(); err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get}, nil
}

type certificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate
	stamps [2]os.FileInfo
}

func (p *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed() {
		if err := p.load(); err != nil {
			p.logger.Warn("the renewed TLS certificate cannot be used, the old one stays", "error", err)
		}
	}
	return p.loaded, nil
}

func (p *certificate) changed() bool {
	for i, file := range []string{p.certFile, p.keyFile} {
		now, err := os.Stat(file)
		if err != nil || !os.SameFile(now, p.stamps[i]) || !now.ModTime().Equal(p.stamps[i].ModTime()) || now.Size() != p.stamps[i].Size() {
			return true
		}
	}
	return false
}

func (p *certificate) load() error {
	// Stamps first: a change during the reading is then seen at the next handshake.
	certStamp, err := os.Stat(p.certFile)
	if err != nil {
		return err
	}
	keyStamp, err := os.Stat(p.keyFile)
	if err != nil {
		return err
	}
	loaded, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		return err
	}
	p.loaded, p.stamps = &loaded, [2]os.FileInfo{certStamp, keyStamp}
	return nil
}
