package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/config"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentclient"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/version"
)

const nfsPort = "2049"

func checkPorts(ctx context.Context, h Host, c config.Config) []Finding {
	var findings []Finding
	_, err := askAgent(ctx, c)
	switch inUse, problem := tryListen(c.ListenAddr); {
	case c.ListenAddr == "":
	case err == nil:
		findings = append(findings, good("the agent listens on "+c.ListenAddr))
	case inUse:
		findings = append(findings, bad("another program listens on "+c.ListenAddr, "ss -ltnp shows it: stop it, or set AGENT_LISTEN_ADDR."))
	case problem != nil:
		findings = append(findings, bad("listen on "+c.ListenAddr+": "+problem.Error(), "Set AGENT_LISTEN_ADDR to an address of this host."))
	default:
		findings = append(findings, good(c.ListenAddr+" is free for the agent"))
	}
	if threads := strings.TrimSpace(read(h.Proc, "fs/nfsd/threads")); threads != "" && threads != "0" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("localhost", nfsPort))
		if err != nil {
			return append(findings, bad("the NFS server is running but does not accept connections on port "+nfsPort, "Check port and host in the section [nfsd] of /etc/nfs.conf."))
		}
		conn.Close()
		findings = append(findings, good("the NFS server accepts connections on port "+nfsPort))
	}
	return findings
}

func tryListen(address string) (inUse bool, err error) {
	listener, err := net.Listen("tcp", address)
	if err == nil {
		listener.Close()
		return false, nil
	}
	return errors.Is(err, syscall.EADDRINUSE), err
}

// checkFirewall reads nftables, which ufw, firewalld and current iptables fill. It warns if a rule
// drops incoming packets and no rule accepts these ports. This is a guess, so it is only a warning.
func checkFirewall(ctx context.Context, h Host, c config.Config) []Finding {
	out, err := h.Run(ctx, "nft", "-j", "list", "ruleset")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return []Finding{unknown("nft is not installed, so the firewall's rules cannot be read")}
	case err != nil:
		return []Finding{unknown("nft: " + err.Error())}
	}
	rules, err := parseRuleset(out)
	if err != nil {
		return []Finding{unknown("nft: " + err.Error())}
	}
	if !rules.drops {
		return []Finding{good("incoming packets are not dropped")}
	}
	ports := []string{nfsPort}
	if _, port, err := net.SplitHostPort(c.ListenAddr); err == nil {
		ports = append(ports, port)
	}
	var closed []string
	for _, port := range ports {
		if !strings.Contains(rules.accepted, " "+port+" ") {
			closed = append(closed, port)
		}
	}
	if len(closed) == 0 {
		return []Finding{good("accepts " + strings.Join(ports, " and ") + ", at least from some addresses")}
	}
	return []Finding{doubtful("drops incoming packets, and no rule accepts TCP port "+strings.Join(closed, ", "),
		"Accept them from the nodes (and the API from the cluster): ufw allow from NODES to any port "+closed[0]+" proto tcp, or firewall-cmd --permanent --add-service=nfs.")}
}

type ruleset struct {
	drops    bool   // a chain at the input hook has policy drop, or ends in drop or reject
	accepted string // ports of accept rules, each between spaces
}

// parseRuleset reads the format of libnftables-json(5).
func parseRuleset(text string) (ruleset, error) {
	var parsed struct {
		Nftables []struct {
			Chain *struct{ Hook, Policy, Name string }
			Rule  *struct {
				Chain string
				Expr  []map[string]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &parsed); err != nil {
		return ruleset{}, err
	}
	var out ruleset
	var input []string
	for _, item := range parsed.Nftables {
		if item.Chain != nil && item.Chain.Hook == "input" {
			input = append(input, item.Chain.Name)
			out.drops = out.drops || item.Chain.Policy == "drop"
		}
	}
	for _, item := range parsed.Nftables {
		if item.Rule == nil {
			continue
		}
		verdicts := map[string]bool{}
		for _, expression := range item.Rule.Expr {
			for key := range expression {
				verdicts[key] = true
			}
		}
		switch {
		case verdicts["accept"]:
			all, _ := json.Marshal(item.Rule.Expr)
			out.accepted += strings.NewReplacer(",", " ", "[", " ", "]", " ", "}", " ", ":", " ").Replace(string(all)) + " "
		case (verdicts["drop"] || verdicts["reject"]) && len(item.Rule.Expr) <= 2 && slices.Contains(input, item.Rule.Chain):
			out.drops = true // a rule without conditions
		}
	}
	return out, nil
}

const renewBefore = 14 * 24 * time.Hour

func checkTLS(_ context.Context, _ Host, c config.Config) []Finding {
	if c.TLSCert == "" {
		return []Finding{doubtful("the API uses plain HTTP: tokens can be read on the network", "Set AGENT_TLS_CERT and AGENT_TLS_KEY, or restrict the network to storage hosts and nodes (docs/security.md).")}
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return []Finding{bad(err.Error(), "Correct AGENT_TLS_CERT and AGENT_TLS_KEY.")}
	}
	left := time.Until(pair.Leaf.NotAfter)
	switch {
	case left < 0:
		return []Finding{bad("the certificate expired on "+pair.Leaf.NotAfter.UTC().Format(time.DateOnly), "Renew it. The agent reloads it.")}
	case left < renewBefore:
		return []Finding{doubtful("the certificate expires on "+pair.Leaf.NotAfter.UTC().Format(time.DateOnly), "Renew it. The agent reloads it.")}
	}
	return []Finding{good("the certificate is valid until " + pair.Leaf.NotAfter.UTC().Format(time.DateOnly))}
}

// checkAgent requests the health of a running agent.
func checkAgent(ctx context.Context, _ Host, c config.Config) []Finding {
	health, err := askAgent(ctx, c)
	if err != nil {
		return []Finding{doubtful("does not answer: "+err.Error(), "systemctl enable --now btrfs-nfs-agent; journalctl -u btrfs-nfs-agent")}
	}
	var findings []Finding
	if health.Version != version.Version {
		findings = append(findings, doubtful(fmt.Sprintf("the agent is %s, this program is %s", health.Version, version.Version), "systemctl restart btrfs-nfs-agent"))
	}
	for _, condition := range health.Conditions {
		findings = append(findings, bad(condition.Reason+": "+condition.Message, "See docs/troubleshooting.md."))
	}
	return orGood(findings, fmt.Sprintf("%s, %s", health.Version, health.Status))
}

// askAgent uses the loopback address if the agent listens on all addresses. The certificate must be
// the agent's, but need not contain that address.
func askAgent(ctx context.Context, c config.Config) (*agentapi.Health, error) {
	host, port, err := net.SplitHostPort(c.ListenAddr)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	scheme, trust := "http", agentclient.TLSFiles{}
	if c.TLSCert != "" {
		scheme, trust.CA, trust.ServerName = "https", c.TLSCert, nameIn(c)
	}
	if c.TLSClientCA != "" {
		trust.Cert, trust.Key = c.TLSCert, c.TLSKey // works if one CA issues all certificates
	}
	client, err := agentclient.New(scheme+"://"+net.JoinHostPort(host, port), agentclient.Options{TLS: trust, Timeout: 3 * time.Second})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return client.Health(ctx)
}

// nameIn returns a name in the agent's certificate, "" if it has none. checkTLS reports an
// unreadable certificate.
func nameIn(c config.Config) string {
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	switch {
	case err != nil:
		return ""
	case len(pair.Leaf.DNSNames) > 0:
		return strings.Replace(pair.Leaf.DNSNames[0], "*", "agent", 1)
	case len(pair.Leaf.IPAddresses) > 0:
		return pair.Leaf.IPAddresses[0].String()
	}
	return ""
}
