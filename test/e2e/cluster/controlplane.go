package cluster

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	serverURL = "https://" + controlIP + ":6443"
	etcdURL   = "http://127.0.0.1:2379"
	issuer    = "https://kubernetes.default.svc"
)

// controlPlane starts etcd, kube-apiserver, kube-controller-manager and kube-scheduler on this
// machine.
func (c *Cluster) controlPlane(ctx context.Context) error {
	for _, dir := range []string{c.pki(""), c.env.State + "/etcd"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.startAPIServer(ctx); err != nil {
		return err
	}
	admin := c.Kubeconfig("admin")
	common := []string{"--kubeconfig=" + admin, "--authentication-kubeconfig=" + admin, "--authorization-kubeconfig=" + admin, "--bind-address=127.0.0.1", "--leader-elect=false"}
	manager := c.process("kube-controller-manager", local(nil, c.tools.kubernetes+"/kube-controller-manager", append(common,
		"--cert-dir="+c.pki("kcm"), "--service-account-private-key-file="+c.pki("sa.key"), "--root-ca-file="+c.pki("apiserver.crt"),
		"--flex-volume-plugin-dir="+c.env.State+"/flexvolume", "--attach-detach-reconcile-sync-period=10s",
		// The control plane detects a lost node after 12 s, not 40.
		"--node-monitor-period=2s", "--node-monitor-grace-period=12s",
		"--kube-api-qps=200", "--kube-api-burst=400")...))
	scheduler := c.process("kube-scheduler", local(nil, c.tools.kubernetes+"/kube-scheduler", append(common, "--cert-dir="+c.pki("scheduler"))...))
	for _, p := range []*Process{manager, scheduler} {
		p.keep = true
		if err := p.Start(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) pki(name string) string { return filepath.Join(c.env.State, "pki", name) }

func (c *Cluster) startEtcd(ctx context.Context) error {
	p := c.process("etcd", local(nil, c.tools.etcd+"/etcd", "--data-dir="+c.env.State+"/etcd",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL,
		"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380", "--unsafe-no-fsync"))
	if err := p.Start(); err != nil {
		return err
	}
	return c.ready(ctx, p, func() bool { return answers(ctx, etcdURL+"/health") })
}

// ready waits until a process is ready, or ends.
func (c *Cluster) ready(ctx context.Context, p *Process, f func() bool) error {
	err := poll(ctx, time.Minute, p.Name+" is ready", func() bool { return f() || !p.Running() })
	if err == nil && !p.Running() {
		err = fmt.Errorf("%s has ended", p.Name)
	}
	if err != nil {
		err = fmt.Errorf("%w; its log ends:\n%s", err, p.Tail(15))
	}
	return err
}

func answers(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// auditPolicy records only the requests of the chart's service accounts.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: Metadata
    userGroups: ["system:serviceaccounts:` + Namespace + `"]
  - level: None
`

func (c *Cluster) startAPIServer(ctx context.Context) error {
	if err := c.writeKeys(); err != nil {
		return err
	}
	p := c.process("kube-apiserver", local(nil, c.tools.kubernetes+"/kube-apiserver",
		"--bind-address="+controlIP, "--advertise-address="+controlIP, "--secure-port=6443", "--endpoint-reconciler-type=none",
		"--cert-dir="+c.pki(""), "--etcd-servers="+etcdURL, "--service-cluster-ip-range=10.0.0.0/24",
		"--token-auth-file="+c.pki("tokens.csv"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer="+issuer, "--service-account-key-file="+c.pki("sa.key"), "--service-account-signing-key-file="+c.pki("sa.key"),
		"--kubelet-preferred-address-types=InternalIP", "--allow-privileged=true",
		"--audit-policy-file="+c.pki("audit.yaml"), "--audit-log-path="+c.auditLog(), "--audit-log-mode=blocking"))
	if err := p.Start(); err != nil {
		return err
	}
	err := c.ready(ctx, p, func() bool {
		_, err := os.Stat(c.pki("apiserver.crt"))
		return err == nil
	})
	if err != nil {
		return err
	}
	for user, token := range c.tokens {
		if err := c.writeKubeconfig(user, token); err != nil {
			return err
		}
	}
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig("admin")); err != nil {
		return err
	}
	c.Config.QPS, c.Config.Burst = 500, 1000
	return c.ready(ctx, p, func() bool { return c.serverReady(ctx) })
}

func (c *Cluster) serverReady(ctx context.Context) bool {
	client, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return false
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, serverURL+"/readyz", nil)
	if err != nil {
		return false
	}
	answer, err := client.Do(request)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

func (c *Cluster) auditLog() string { return filepath.Join(c.env.State, "log", "audit.log") }

// writeKeys creates the key for service account tokens, and tokens for the administrator and the
// nodes.
func (c *Cluster) writeKeys() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(c.pki("sa.key"), text, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(c.pki("audit.yaml"), []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	c.tokens = map[string]string{"admin": newToken()}
	users := fmt.Sprintf("%s,admin,admin,system:masters\n", c.tokens["admin"])
	for n := range c.options.Nodes {
		name := NodeName(n + 1)
		c.tokens[name] = newToken()
		users += fmt.Sprintf("%s,system:node:%s,%s,system:nodes\n", c.tokens[name], name, name)
	}
	return os.WriteFile(c.pki("tokens.csv"), []byte(users), 0o600)
}

func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// Kubeconfig returns the kubeconfig file of a user: admin, or a node.
func (c *Cluster) Kubeconfig(user string) string { return c.pki(user + ".kubeconfig") }

func (c *Cluster) writeKubeconfig(user, token string) error {
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"e2e": {Server: serverURL, CertificateAuthority: c.pki("apiserver.crt")}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"e2e": {Cluster: "e2e", AuthInfo: user}},
		CurrentContext: "e2e",
	}, c.Kubeconfig(user))
}
