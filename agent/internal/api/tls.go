package api

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// TLSFiles are PEM files of a server.
type TLSFiles struct {
	Cert, Key string
	// ClientCA contains the authorities that may sign client certificates. "" accepts clients
	// without a certificate.
	ClientCA string
}

// TLSConfig serves the certificate in the files. It reads them again when one changes, so that a
// renewed certificate or authority needs no restart. While the new files cannot be read, the old
// ones stay in use and a message is logged. That happens, for example, while one is half written.
// TLSConfig fails if the first read fails.
func TLSConfig(files TLSFiles, logger *slog.Logger) (*tls.Config, error) {
	r := &reloading{files: files, logger: logger}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: r.get}, nil
}

type reloading struct {
	files  TLSFiles
	logger *slog.Logger

	mu      sync.Mutex
	loaded  *tls.Config
	watched watched
}

func (r *reloading) get(*tls.ClientHelloInfo) (*tls.Config, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watched.changed() {
		if err := r.load(); err != nil {
			r.logger.Warn("the renewed TLS files cannot be used, the old ones stay", "error", err)
		}
	}
	return r.loaded, nil
}

func (f TLSFiles) all() []string {
	if f.ClientCA == "" {
		return []string{f.Cert, f.Key}
	}
	return []string{f.Cert, f.Key, f.ClientCA}
}

func (r *reloading) load() error {
	// Before the read, so that the next handshake notices a change during the read.
	now, err := watch(r.files.all()...)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(r.files.Cert, r.files.Key)
	if err != nil {
		return err
	}
	loaded := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if r.files.ClientCA != "" {
		if loaded.ClientCAs, err = agentclient.Authorities(r.files.ClientCA); err != nil {
			return err
		}
		loaded.ClientAuth = tls.RequireAndVerifyClientCert
	}
	r.loaded, r.watched = loaded, now
	return nil
}
