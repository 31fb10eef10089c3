package cluster

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/lab/guest"
)

// ServeSSH lets the tests of Kubernetes log in to the nodes, to stop kubelets and to inspect
// mounts. It returns the file with the key. The server is this process. Commands run on the node,
// except for systemctl, which nodes do not have.
func (c *Cluster) ServeSSH() (keyFile string, err error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return "", err
	}
	keyFile = c.pki("ssh.key")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(block), 0o600); err != nil {
		return "", err
	}
	allowed, err := ssh.NewPublicKey(public)
	if err != nil {
		return "", err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), allowed.Marshal()) {
			return nil, errors.New("the key is not known")
		}
		return nil, nil
	}}
	config.AddHostKey(signer)
	for _, n := range c.Nodes {
		if err := n.serveSSH(config); err != nil {
			return "", err
		}
	}
	return keyFile, nil
}

// serveSSH listens here for connections to the node's port 22.
func (n *Node) serveSSH(config *ssh.ServerConfig) error {
	listener, err := net.Listen("tcp", controlIP+":0")
	if err != nil {
		return err
	}
	n.cluster.listeners = append(n.cluster.listeners, listener)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed by Down
			}
			go n.login(conn, config)
		}
	}()
	m := n.cluster.machine
	forward := n.cluster.process(n.Name+"/ssh", m.inGuest(n.Name, nil, m.helpers+"/e2e-guest", "forward", ":22", listener.Addr().String()))
	forward.keep = true
	return forward.Start()
}

func (n *Node) login(conn net.Conn, config *ssh.ServerConfig) {
	defer func() { _ = conn.Close() }()
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return // the client gets the error
	}
	defer func() { _ = server.Close() }()
	go ssh.DiscardRequests(requests)
	for channel := range channels {
		if channel.ChannelType() != "session" {
			_ = channel.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		if session, requests, err := channel.Accept(); err == nil {
			go n.session(session, requests)
		}
	}
}

// session runs one command (RFC 4254, sections 6.5 and 6.10).
func (n *Node) session(session ssh.Channel, requests <-chan *ssh.Request) {
	defer func() { _ = session.Close() }()
	for request := range requests {
		var exec struct{ Command string }
		if request.Type != "exec" || ssh.Unmarshal(request.Payload, &exec) != nil {
			_ = request.Reply(false, nil)
			continue
		}
		_ = request.Reply(true, nil) // the client may have disconnected
		code := n.execute(session, strings.TrimPrefix(exec.Command, "sudo "))
		_, _ = session.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(code)}))
		return
	}
}

// execute runs a shell command on the node. Of systemctl, it supports the commands for the kubelet.
func (n *Node) execute(session ssh.Channel, command string) (code int) {
	var err error
	switch command {
	case "systemctl stop kubelet":
		n.Kubelet.Stop()
	case "systemctl start kubelet":
		err = n.Kubelet.Start()
	case "systemctl show kubelet --property ActiveState --value":
		state := "inactive"
		if n.Kubelet.Running() {
			state = "active"
		}
		_, err = fmt.Fprintln(session, state)
	default:
		shell := n.cluster.machine.command(n.Name, nil, "sh", "-c", command)
		shell.Stdout, shell.Stderr = session, session.Stderr()
		err = shell.Run()
	}
	if exit, ok := errors.AsType[*guest.ExitError](err); ok {
		return exit.Code
	}
	if err != nil {
		fmt.Fprintln(session.Stderr(), err)
		return 255 // like ssh(1) for an error that is not the command's
	}
	return 0
}
