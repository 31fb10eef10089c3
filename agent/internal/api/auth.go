package api

import (
	"encoding/base64"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// tenant is the tenant of a request, with its part of the store.
type tenant struct {
	name string
	Tenant
}

// openRoutes need no token. All other paths need one, whether the route exists or not.
var openRoutes = map[string]bool{"/healthz": true, "/readyz": true, "/v1/openapi.yaml": true}

func (s *Server) authenticate(c *fiber.Ctx) error {
	header := c.Get(fiber.HeaderAuthorization)
	switch {
	case openRoutes[c.Path()]:
		return c.Next()
	case header == "" && isUsageCapability(c):
		return c.Next() // the handler checks the usage token; it has no tenant
	case fromForeignPage(c):
		return agentapi.Errorf(agentapi.Forbidden, "a page of another site may not change anything here")
	}
	token, ok := tokenOf(header)
	if !ok {
		return agentapi.Errorf(agentapi.Unauthorized, "a token is needed: Authorization: Bearer TOKEN, or Basic with the token as password")
	}
	name, ok := s.config.Tokens.Tenant(token)
	if !ok {
		return agentapi.Errorf(agentapi.Unauthorized, "the token is not known")
	}
	volumes, err := s.config.Store.Tenant(name)
	if err != nil {
		return err
	}
	trust(c.Context().Conn())
	c.Locals(tenantKey{}, tenant{name, volumes})
	return c.Next()
}

// dropBodyOfStranger makes fasthttp read no body of a request without the token of a tenant. Then
// neither Content-Length nor Expect costs memory or time. The server answers the request as one
// without a body. It closes the connection after the response, because the following bytes are the
// body, and not another request.
func (s *Server) dropBodyOfStranger(header *fasthttp.RequestHeader) fasthttp.RequestConfig {
	const absent = -2 // value of fasthttp for neither Content-Length nor chunks
	hasBody := header.ContentLength() != 0 && header.ContentLength() != absent
	if hasBody && !s.isTenant(header) {
		header.Del(fiber.HeaderExpect)
		header.SetContentLength(0)
		header.SetConnectionClose()
	}
	return fasthttp.RequestConfig{}
}

func (s *Server) isTenant(header *fasthttp.RequestHeader) bool {
	token, ok := tokenOf(string(header.Peek(fiber.HeaderAuthorization)))
	if !ok {
		return false
	}
	_, ok = s.config.Tokens.Tenant(token)
	return ok
}

func isUsageCapability(c *fiber.Ctx) bool {
	return c.Get(agentapi.UsageTokenHeader) != "" &&
		(c.Method() == fiber.MethodGet || c.Method() == fiber.MethodHead) &&
		strings.HasPrefix(c.Path(), "/v1/volumes/") && strings.HasSuffix(c.Path(), "/usage")
}

// fromForeignPage recognizes a request that a page of another site makes. Browsers store Basic
// credentials and send them with such requests. The API accepts JSON of any content type, so no
// other check stops them (Fetch Metadata, https://www.w3.org/TR/fetch-metadata/).
func fromForeignPage(c *fiber.Ctx) bool {
	safe := c.Method() == fiber.MethodGet || c.Method() == fiber.MethodHead
	site := c.Get("Sec-Fetch-Site")
	return !safe && site != "" && site != "same-origin" && site != "none"
}

// tokenOf reads an Authorization header: Bearer (RFC 6750), or the password of Basic (RFC 7617).
// Scheme names are case-insensitive (RFC 9110, 11.1).
func tokenOf(header string) (token string, ok bool) {
	scheme, credentials, _ := strings.Cut(header, " ")
	credentials = strings.TrimLeft(credentials, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		return credentials, credentials != ""
	case strings.EqualFold(scheme, "Basic"):
		plain, err := base64.StdEncoding.DecodeString(credentials)
		if err != nil {
			return "", false
		}
		_, password, _ := strings.Cut(string(plain), ":")
		return password, password != ""
	}
	return "", false
}
