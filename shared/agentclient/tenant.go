package agentclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
)

// URL returns the URL of the agent, as configured.
func (c *Client) URL() string { return c.url }

// Tenant returns a key of the agent and the token. It contains no token.
func (c *Client) Tenant() string { return tenantOf(c.url, *c.token.Load()) }

func tenantOf(agentURL, token string) string {
	ofToken := sha256.Sum256([]byte(token))
	sum := sha256.Sum256([]byte(NormalURL(agentURL) + " " + hex.EncodeToString(ofToken[:])))
	return hex.EncodeToString(sum[:])
}

// NormalURL returns the same text for all spellings of an agent URL.
func NormalURL(agentURL string) string {
	u, err := url.Parse(agentURL)
	if err != nil {
		return agentURL
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch {
	case u.Scheme == "http" && u.Port() == "80":
		u.Host = strings.TrimSuffix(u.Host, ":80")
	case u.Scheme == "https" && u.Port() == "443":
		u.Host = strings.TrimSuffix(u.Host, ":443")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u.String()
}

// renew reads the token again after the agent has refused it, and reports whether it has changed. A
// concurrent call may already have renewed it.
func (c *Client) renew(ctx context.Context, refused string) bool {
	if c.source == nil {
		return false
	}
	token, err := c.source.Token(ctx, true)
	if err != nil || token == refused {
		return false
	}
	c.token.Store(&token)
	return true
}
