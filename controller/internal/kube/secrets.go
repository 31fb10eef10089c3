package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/controller/internal/class"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// secrets reads tokens on demand and caches each for a short time. So the driver needs no
// permission to list secrets.
type secrets struct {
	client  kubernetes.Interface
	timeout time.Duration // for one read
	ttl     time.Duration
	now     func() time.Time

	mu     sync.Mutex
	cached map[secretRef]cachedToken
}

type cachedToken struct {
	token string
	read  time.Time
}

func newSecrets(client kubernetes.Interface, timeout, ttl time.Duration) *secrets {
	return &secrets{client: client, timeout: timeout, ttl: ttl, now: time.Now, cached: map[secretRef]cachedToken{}}
}

// secretToken is the token in one secret.
type secretToken struct {
	secrets *secrets
	ref     secretRef
}

func (t secretToken) Token(ctx context.Context, fresh bool) (string, error) {
	if token, ok := t.secrets.lookup(t.ref); ok && !fresh {
		return token, nil
	}
	token, err := t.secrets.read(ctx, t.ref)
	if err != nil {
		return "", err
	}
	t.secrets.keep(t.ref, token)
	return token, nil
}

func (s *secrets) lookup(ref secretRef) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.cached[ref]
	return found.token, ok && s.now().Sub(found.read) < s.ttl
}

func (s *secrets) keep(ref secretRef, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, c := range s.cached {
		if s.now().Sub(c.read) >= s.ttl {
			delete(s.cached, other)
		}
	}
	s.cached[ref] = cachedToken{token, s.now()}
}

func (s *secrets) read(ctx context.Context, ref secretRef) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	secret, err := s.client.CoreV1().Secrets(ref.namespace).Get(ctx, ref.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("%w: secret %s/%s does not exist", class.ErrMisconfigured, ref.namespace, ref.name)
	case err != nil:
		return "", agentapi.Errorf(agentapi.Unavailable, "read secret %s/%s: %w", ref.namespace, ref.name, err)
	}
	token, given, err := class.TokenFrom(map[string]string{class.TokenKey: string(secret.Data[class.TokenKey])})
	if err != nil || !given {
		return "", fmt.Errorf("%w: secret %s/%s: %w", class.ErrMisconfigured, ref.namespace, ref.name, err)
	}
	return token, nil
}
