package storage

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/beneath"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

const (
	keyFile  = "key"
	keyBytes = 32
)

// loadKey reads the pool's own key, and makes one the first time. It lives with the pool, so that tokens go on working on
// another host after a failover.
func loadKey(own *os.File) ([]byte, error) {
	key, err := beneath.ReadFile(own, keyFile)
	if err == nil && len(key) == keyBytes {
		return key, nil
	}
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("key of the pool: %w", err)
	}
	key = make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails: crypto/rand
	if err := writeOwn(own, keyFile, key); err != nil {
		return nil, fmt.Errorf("key of the pool: %w", err)
	}
	return key, nil
}

// writeOwn puts a whole file into ownDir. After a power cut the file is there whole or not at all,
// and after a return it is there.
func writeOwn(own *os.File, name string, content []byte) error {
	temporary := name + temporarySuffix
	if err := unix.Unlinkat(int(own.Fd()), temporary, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %s: %w", temporary, err)
	}
	fd, err := unix.Openat(int(own.Fd()), temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", temporary, err)
	}
	f := os.NewFile(uintptr(fd), temporary)
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.Renameat(int(own.Fd()), temporary, int(own.Fd()), name); err != nil {
		return err
	}
	return own.Sync()
}

// usageToken lets its holder read the usage of one volume while the client is let in to it: tenant and client in
// the clear, and an HMAC over them, the volume's name and its UUID. A new volume of the same name has another UUID.
func (s *Store) usageToken(tenant string, v Volume, client netip.Addr) string {
	subject := tenant + "|" + client.String()
	return encode([]byte(subject)) + "." + encode(sign(s.key, "usage", subject, v.Name, v.UUID.String()))
}

// sign is an HMAC over the parts; none of them can pass for a piece of another.
func sign(key []byte, parts ...string) []byte {
	mac := hmac.New(sha256.New, key)
	for _, part := range parts {
		sum := sha256.Sum256([]byte(part))
		mac.Write(sum[:])
	}
	return mac.Sum(nil)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

var errToken = agentapi.Errorf(agentapi.Forbidden, "the usage token is not for this volume, or its client is no longer let in")

// ReportByToken is Report for the holder of a usage token. Whatever is wrong is one and the same Forbidden: it does
// not tell whether the volume exists.
func (s *Store) ReportByToken(ctx context.Context, volume, token string) (Report, error) {
	encoded, signature, _ := strings.Cut(token, ".")
	subject, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return Report{}, errToken
	}
	tenant, address, _ := strings.Cut(string(subject), "|")
	client, err := netip.ParseAddr(address)
	if err != nil {
		return Report{}, errToken
	}
	t := s.tenantOnDisk(tenant)
	if t == nil {
		return Report{}, errToken
	}
	v, err := t.GetVolume(ctx, volume)
	if err != nil || !hmac.Equal([]byte(s.usageToken(tenant, v, client)), []byte(encoded+"."+signature)) || !v.hasClient(client) {
		return Report{}, errToken
	}
	return t.Report(ctx, volume)
}
