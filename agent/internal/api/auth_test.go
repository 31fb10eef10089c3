package api

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// closedRoutes returns every operation of the contract that needs the token of a tenant.
func closedRoutes(t *testing.T) (out []string) {
	for path, item := range contractDocument(t).Paths.Map() {
		for method, operation := range item.Operations() {
			if operation.Security == nil || len(*operation.Security) > 0 {
				out = append(out, method+" "+strings.ReplaceAll(path, "{name}", "v"))
			}
		}
	}
	assert.Assert(t, len(out) >= 16)
	return out
}

func TestNobodyGetsInWithoutAToken(t *testing.T) {
	h := start(t, func(c *Config) { c.Tokens.Add("a", "") })
	headers := []string{
		"", "Bearer", "Bearer ", "Bearer  ", "Basic", "Basic ", basic("", ""), basic("a", ""), "Basic !!!", "Bearer wrong", "Bearer " + tokenA + "x", "Bearer " + tokenA[1:],
		"Bearer " + strings.ToUpper(tokenA), basic(tokenA, ""), basic(tokenA, "wrong"), "Digest " + tokenA, tokenA, "Bearer\t" + tokenA, "Basic " + tokenA,
		"Bearer " + tokenA + " " + tokenB,
	}
	for _, route := range closedRoutes(t) {
		method, path, _ := strings.Cut(route, " ")
		for _, header := range headers {
			got := h.do(method, path, `{}`, "Authorization", header)
			assert.Check(t, got.status == 401, "%s with %q: %d %s", route, header, got.status, got.body)
			assert.Check(t, got.code(t) == agentapi.Unauthorized)
			assert.Check(t, strings.Contains(got.header.Get("WWW-Authenticate"), "Bearer"))
		}
	}
	assert.Check(t, !strings.Contains(h.log.String(), "token-of"), "a token is in the log:\n%s", h.log)
}

func TestOpenRoutesNeedNoToken(t *testing.T) {
	h := start(t)
	for _, path := range []string{"/healthz", "/readyz", "/v1/openapi.yaml"} {
		for _, header := range []string{"", "Bearer wrong"} {
			got := h.do("GET", path, "", "Authorization", header)
			assert.Equal(t, got.status, 200, path)
		}
	}
	assert.Equal(t, string(h.do("GET", "/v1/openapi.yaml", "", "Authorization", "").body), string(agentapi.OpenAPI))
}

func TestTokenChoosesTheTenant(t *testing.T) {
	h := start(t)
	var asked []string
	for name, fake := range h.store.tenants {
		fake.listVolumes = func(storage.Query) (p storage.Page[storage.Volume], _ error) {
			asked = append(asked, name)
			return p, nil
		}
	}
	for _, header := range []string{
		"Bearer " + tokenA, "Bearer " + tokenB, "bearer " + tokenB, "BEARER  " + tokenB, basic("", tokenA), basic("anybody", tokenB), "basic" + basic("b", tokenA)[5:],
	} {
		assert.Equal(t, h.do("GET", "/v1/volumes", "", "Authorization", header).status, 200, header)
	}
	assert.DeepEqual(t, asked, []string{"a", "b", "b", "b", "a", "b", "a"})
	assert.Check(t, !strings.Contains(h.log.String(), "token-of"), "a token is in the log:\n%s", h.log)
}

func TestATokenMayHoldAColon(t *testing.T) {
	h := start(t, func(c *Config) { c.Tokens.Add("b", "x:y") })
	h.store.tenants["b"].listVolumes = func(storage.Query) (p storage.Page[storage.Volume], _ error) { return p, nil }
	assert.Equal(t, h.do("GET", "/v1/volumes", "", "Authorization", basic("u", "x:y")).status, 200)
}

func TestUsageToken(t *testing.T) {
	h := start(t)
	h.store.reportByToken = func(volume, token string) (storage.Report, error) {
		if volume == "v1" && token == "good" {
			return storage.Report{QuotaBytes: 10, UsedBytes: 5}, nil
		}
		return storage.Report{}, agentapi.Errorf(agentapi.Forbidden, "the usage token is not for volume %q", volume)
	}
	usage := func(path, token string, header ...string) answer {
		return h.do("GET", path, "", append([]string{"Authorization", "", "X-Usage-Token", token}, header...)...)
	}
	got := usage("/v1/volumes/v1/usage", "good")
	assert.Equal(t, got.status, 200)
	assert.Equal(t, into[agentapi.Usage](t, got).UsedBytes, int64(5))

	assert.Equal(t, usage("/v1/volumes/v2/usage", "good").status, 403)
	assert.Equal(t, usage("/v1/volumes/v1/usage", "bad").status, 403)
	assert.Equal(t, usage("/v1/volumes/v1/usage", "").status, 401)
	assert.Equal(t, usage("/v1/volumes/..%2fv1/usage", "good").status, 400)
	// The usage token is valid for no other route, and does not replace a wrong tenant token.
	assert.Equal(t, usage("/v1/volumes/v1/usage", "good", "Authorization", "Bearer wrong").status, 401)
	for _, route := range closedRoutes(t) {
		method, path, _ := strings.Cut(route, " ")
		if !strings.HasSuffix(path, "/usage") {
			got := h.do(method, path, `{}`, "Authorization", "", "X-Usage-Token", "good")
			assert.Equal(t, got.status, 401, route)
		}
	}
	assert.Equal(t, usage("/v1/volumes/usage", "good").status, 401)
	assert.Check(t, !strings.Contains(h.log.String(), "good"), h.log.String())
}

func TestForeignPagesMayNotChangeAnything(t *testing.T) {
	h := start(t)
	h.a().deleteVolume = func(string) error { return nil }
	for site, status := range map[string]int{"cross-site": 403, "same-site": 403, "same-origin": 204, "none": 204, "": 204} {
		got := h.do("DELETE", "/v1/volumes/v", "", "Authorization", basic("u", tokenA), "Sec-Fetch-Site", site)
		assert.Equal(t, got.status, status, site)
	}
}

// A missing tenant, for example one without a directory, is an error of the store. It never shows
// the data of another tenant.
func TestStoreWithoutTheTenant(t *testing.T) {
	h := start(t, func(c *Config) { c.Store = lostTenants{c.Store} })
	assert.Equal(t, h.do("GET", "/v1/volumes", "").status, 503)
}

type lostTenants struct{ Store }

func (lostTenants) Tenant(string) (Tenant, error) {
	return nil, agentapi.Errorf(agentapi.Unavailable, "gone")
}

func TestTokensAreNotKept(t *testing.T) {
	tokens := &Tokens{}
	tokens.Add("a", tokenA)
	name, ok := tokens.Tenant(tokenA)
	assert.Assert(t, ok && name == "a")
	for _, entry := range tokens.entries {
		assert.Assert(t, !strings.Contains(string(entry.hash[:]), tokenA))
	}
	_, ok = tokens.Tenant("")
	assert.Assert(t, !ok)
	_, ok = (&Tokens{}).Tenant("x")
	assert.Assert(t, !ok)
}

func TestHeadIsLikeGet(t *testing.T) {
	h := start(t)
	h.a().listVolumes = func(storage.Query) (p storage.Page[storage.Volume], _ error) { return p, nil }
	get, head := h.do("GET", "/v1/volumes", ""), h.do("HEAD", "/v1/volumes", "")
	assert.Equal(t, head.status, http.StatusOK)
	assert.Equal(t, len(head.body), 0)
	assert.Equal(t, head.header.Get("Content-Length"), get.header.Get("Content-Length"))
	assert.Equal(t, h.do("HEAD", "/v1/volumes", "", "Authorization", "").status, 401)
	assert.Equal(t, h.do("HEAD", "/v1/volumes/..", "").status, 400)
}
