package api

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
)

// TLSFiles are PEM files of a server.
type TLSFiles struct {
	Cert, Key string
	// ClientCA holds the authorities that a client's certificate must be of; "" for clients without one.
	ClientCA string
}

// TLSConfig serves what is in the files, and reads them again when one changes, so that a renewed certificate or authority is
// used without a restart. While the new ones cannot be read (half of one is written, say), the old ones stay in use and the log
// says so. It fails where there are no good ones to begin with.
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

	mu     sync.Mutex
	loaded *tls.Config
	stamps []os.FileInfo
}

func (r *reloading) get(*tls.ClientHelloInfo) (*tls.Config, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed() {
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

func (r *reloading) changed() bool {
	for i, file := range r.files.all() {
		now, err := os.Stat(file)
		if err != nil || !os.SameFile(now, r.stamps[i]) || !now.ModTime().Equal(r.stamps[i].ModTime()) || now.Size() != r.stamps[i].Size() {
			return true
		}
	}
	return false
}

func (r *reloading) load() error {
	// Stamps first: a change during the reading is then seen at the next handshake.
	var stamps []os.FileInfo
	for _, file := range r.files.all() {
		stamp, err := os.Stat(file)
		if err != nil {
			return err
		}
		stamps = append(stamps, stamp)
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
	r.loaded, r.stamps = loaded, stamps
	return nil
}
