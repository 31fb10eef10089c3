package api

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// The fakes have no functions here. A request that reached the domain would fail the test, so none
// of these requests changes anything.

// bodyRoutes are the routes with a body. Each has a valid body and the types of its fields.
var bodyRoutes = []struct {
	method, path, good string
	fields             map[string]string
}{
	{"POST", "/v1/volumes", `{"name":"v","size_bytes":1048576}`, map[string]string{
		"name": "text", "size_bytes": "int", "quota_bytes": "int", "nocow": "bool", "root_squash": "bool", "compression": "text", "uid": "int", "gid": "int",
		"mode": "text", "labels": "labels",
	}},
	{"POST", "/v1/volumes/clone", `{"source":"s","name":"v"}`, map[string]string{"source": "text", "name": "text", "size_bytes": "int", "labels": "labels"}},
	{"POST", "/v1/clones", `{"snapshot":"s","name":"v"}`, map[string]string{"snapshot": "text", "name": "text", "size_bytes": "int", "labels": "labels"}},
	{"PATCH", "/v1/volumes/v", `{"size_bytes":1048576}`, map[string]string{
		"size_bytes": "int", "size_limit": "bool", "nocow": "bool", "root_squash": "bool", "compression": "text", "uid": "int", "gid": "int",
		"mode": "text", "mount_options": "list", "labels": "labels",
	}},
	{"POST", "/v1/volumes/v/export", `{"client":"10.0.0.1"}`, map[string]string{"client": "text", "read_only": "bool", "labels": "labels"}},
	{"DELETE", "/v1/volumes/v/export", `{"client":"10.0.0.1"}`, map[string]string{"client": "text", "labels": "labels"}},
	{"POST", "/v1/snapshots", `{"volume":"v","name":"s"}`, map[string]string{"volume": "text", "name": "text", "labels": "labels"}},
}

// ofWrongType are JSON values that a field of the type must refuse.
var ofWrongType = map[string][]string{
	"text":   {`1`, `-1`, `true`, `["a"]`, `{"a":"b"}`, `1.5`},
	"int":    {`"1"`, `1.5`, `true`, `[1]`, `{}`, `9223372036854775808`, `-9223372036854775809`, `1e400`, `1e3`},
	"bool":   {`"true"`, `1`, `0`, `[]`, `{}`},
	"list":   {`"hard"`, `1`, `true`, `{"a":"b"}`, `[1]`, `[["a"]]`, `[{}]`},
	"labels": {`"a=b"`, `1`, `true`, `["a"]`, `{"a":1}`, `{"a":{"b":"c"}}`, `{"a":["b"]}`},
}

func TestFieldsOfWrongType(t *testing.T) {
	h := start(t)
	for _, route := range bodyRoutes {
		for field, kind := range route.fields {
			for _, value := range ofWrongType[kind] {
				body := fmt.Sprintf(`{%q:%s}`, field, value)
				got := h.do(route.method, route.path, body)
				assert.Check(t, got.status == 400, "%s %s %s: %d", route.method, route.path, body, got.status)
				assert.Check(t, strings.Contains(got.message(t), field), "%s: %s", body, got.body)
				assert.Check(t, got.code(t) == agentapi.BadRequest, body)
			}
		}
	}
}

func TestWrongTypeNamesTheRightOne(t *testing.T) {
	h := start(t)
	for body, says := range map[string]string{
		`{"name":1}`:               "must be a text, not number",
		`{"size_bytes":"1"}`:       "must be an integer of 64 bits, not string",
		`{"size_limit":"true"}`:    "must be true or false, not string",
		`{"labels":"a=b"}`:         "must be an object of texts, not string",
		`{"mount_options":"hard"}`: "must be a list of texts, not string",
	} {
		message := h.do("POST", "/v1/volumes", body).message(t)
		assert.Check(t, strings.Contains(message, says), message)
	}
}

func TestBodiesOfWrongForm(t *testing.T) {
	h := start(t)
	for _, route := range bodyRoutes {
		for body, says := range map[string]string{
			"":                             "empty",
			" \n\t":                        "empty",
			"null":                         "must be a JSON object",
			"[]":                           "must be a JSON object",
			`"text"`:                       "must be a JSON object",
			"1":                            "must be a JSON object",
			"{":                            "not JSON",
			`{"a"}`:                        "not JSON",
			"{,}":                          "not JSON",
			"<xml/>":                       "not JSON",
			"name=v&size_bytes=1":          "not JSON",
			route.good + "{}":              "goes on after",
			route.good + " x":              "not JSON|goes on after",
			route.good + route.good:        "goes on after",
			`{"nonsense":1}`:               `"nonsense" is not known`,
			`{"Labels":{}}`:                `"Labels" is not known`,
			`{"":1}`:                       `"" is not known`,
			`{"__proto__":{"a":"b"}}`:      "is not known",
			"{\"labels\":{\"\xff\":1}}":    "not UTF-8",
			strings.Repeat("[", 20000):     "must be a JSON object|not JSON",
			strings.Repeat(`{"a":`, 11000): "not JSON",
		} {
			got := h.do(route.method, route.path, body)
			assert.Check(t, got.status == 400, "%s %s %.60q: %d %s", route.method, route.path, body, got.status, got.body)
			assert.Check(t, got.code(t) == agentapi.BadRequest)
			assert.Check(t, containsOne(got.message(t), says), "%.60q: %s", body, got.body)
		}
	}
}

func containsOne(text, alternatives string) bool {
	for part := range strings.SplitSeq(alternatives, "|") {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// The server refuses a body on a route without one, instead of ignoring it.
func TestBodiesThatNobodyReads(t *testing.T) {
	h := start(t)
	for _, route := range []string{
		"GET /v1/volumes", "GET /v1/volumes/v", "DELETE /v1/volumes/v", "GET /v1/volumes/v/snapshots", "GET /v1/volumes/v/usage",
		"GET /v1/snapshots", "GET /v1/snapshots/s", "DELETE /v1/snapshots/s", "DELETE /v1/snapshots/%73", "GET /v1/exports", "GET /v1/stats",
		"GET /v1/tasks", "GET /v1/tasks/t", "DELETE /v1/tasks/t", "GET /healthz", "GET /readyz",
	} {
		method, path, _ := strings.Cut(route, " ")
		for body, says := range map[string]string{`{"force":true}`: `"force" is not known`, `[]`: "must be a JSON object", `x`: "not JSON"} {
			got := h.do(method, path, body)
			assert.Check(t, got.status == 400, "%s %s: %d %s", route, body, got.status, got.body)
			assert.Check(t, strings.Contains(got.message(t), says), "%s: %s", route, got.body)
		}
	}
	for _, body := range []string{"", " \n", "{}"} {
		assert.Equal(t, h.do("GET", "/v1/openapi.yaml", body).status, 200, "%q", body)
	}
}

// The test sends a body just over the limit and one far over it, with and without Content-Length.
// The response must arrive although the server stops reading.
func TestBodyOverTheLimit(t *testing.T) {
	h := start(t)
	for _, route := range bodyRoutes {
		for _, size := range []int{agentapi.MaxBodyBytes + 1, 3 << 20} {
			for _, chunked := range []bool{false, true} {
				r, err := http.NewRequest(route.method, h.url+route.path, strings.NewReader(strings.Repeat(" ", size)))
				assert.NilError(t, err)
				r.Header.Set("Authorization", "Bearer "+tokenA)
				if chunked {
					r.ContentLength = -1
				}
				got := h.send(r)
				assert.Equal(t, got.status, 413, "%s %s %d", route.method, route.path, size)
				assert.Equal(t, got.code(t), agentapi.TooLarge)
				assert.Check(t, strings.Contains(got.message(t), "1048576"))
			}
		}
	}
}

func TestBodyAtTheLimit(t *testing.T) {
	h := start(t)
	padding := strings.Repeat(" ", agentapi.MaxBodyBytes-len(`{"x":1}`))
	got := h.do("POST", "/v1/volumes", padding+`{"x":1}`)
	assert.Equal(t, got.status, 400)
	assert.Check(t, strings.Contains(got.message(t), `"x" is not known`))
}

func TestNamesInPaths(t *testing.T) {
	h := start(t)
	names := []string{
		"..", ".", "%2e%2e", "a%2Fb", "a%2fb", "%2F", "..%2F..%2Fetc", "%00", "a%00b", "a%0Ab", "snapshots", ".hidden", "-a", "_a", "a%7Cb",
		"a%5Cb", "gr%C3%BCn", "%F0%9F%92%BE", "%FF", "a%20b", "%20", "a:b", "a*b", "~a", "a%25b", "a,b", strings.Repeat("x", 129), strings.Repeat("x", 4000),
	}
	routes := []string{
		"GET /v1/volumes/%s", "PATCH /v1/volumes/%s", "DELETE /v1/volumes/%s", "GET /v1/volumes/%s/snapshots",
		"POST /v1/volumes/%s/export", "DELETE /v1/volumes/%s/export", "GET /v1/volumes/%s/usage", "GET /v1/snapshots/%s", "DELETE /v1/snapshots/%s",
	}
	for _, route := range routes {
		for _, name := range names {
			method, path, _ := strings.Cut(fmt.Sprintf(route, name), " ")
			got := h.do(method, path, `{"client":"10.0.0.1"}`)
			assert.Check(t, got.status == 400, "%s %.80s: %d %s", method, path, got.status, got.body)
			assert.Check(t, got.code(t) == agentapi.Invalid || got.code(t) == agentapi.BadRequest)
			assert.Check(t, strings.Contains(got.message(t), "name"), "%.80s: %s", path, got.body)
		}
	}
}

func TestClients(t *testing.T) {
	h := start(t)
	clients := []string{
		"", "host", "host.example", "*", "10.0.0.0/8", "10.0.0.256", "10.0.0", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "fe80::1%eth0", "10.0.0.1 ",
		"10.0.0.1,10.0.0.2", "10.0.0.1(rw)", "010.0.0.1", "[fd00::1]", "10.0.0.1|x", "\\u0000", "@group", strings.Repeat("1", 10000),
	}
	for _, client := range clients {
		for _, method := range []string{"POST", "DELETE"} {
			got := h.do(method, "/v1/volumes/v/export", `{"client":"`+client+`"}`)
			assert.Equal(t, got.status, 400, "%q", client)
			assert.Equal(t, got.code(t), agentapi.Invalid)
			assert.Check(t, strings.Contains(got.message(t), "client"))
		}
	}
	for _, method := range []string{"POST", "DELETE"} {
		got := h.do(method, "/v1/volumes/v/export", `{"labels":{}}`)
		assert.Equal(t, got.status, 400)
		assert.Check(t, strings.Contains(got.message(t), "client"))
	}
}

func TestCloneOfNothing(t *testing.T) {
	h := start(t)
	for path, field := range map[string]string{"/v1/volumes/clone": "source", "/v1/clones": "snapshot"} {
		for _, body := range []string{`{"name":"v"}`, `{"name":"v","` + field + `":""}`, `{"name":"v","` + field + `":null}`} {
			got := h.do("POST", path, body)
			assert.Equal(t, got.status, 400)
			assert.Check(t, strings.Contains(got.message(t), field))
		}
	}
}

func TestQueries(t *testing.T) {
	h := start(t)
	lists := []string{"/v1/volumes", "/v1/snapshots", "/v1/volumes/v/snapshots", "/v1/exports"}
	for _, list := range lists {
		for query, says := range map[string]string{
			"limit=0":                            "limit",
			"limit=-1":                           "limit",
			"limit=1001":                         "limit",
			"limit=99999999999999999999":         "limit",
			"limit=1.5":                          "limit",
			"limit=":                             "limit",
			"limit=a":                            "limit",
			"limit=%00":                          "limit",
			"limit=1&limit=2":                    "limit",
			"detail=maybe":                       "detail",
			"detail=":                            "detail",
			"degraded=maybe":                     "degraded",
			"degraded=":                          "degraded",
			"degraded=true&degraded=true":        "degraded",
			"after=a&after=b":                    "after",
			"after=%ff":                          "after",
			"label=a%00b":                        "label",
			"label=%ff":                          "label",
			"page=2":                             "page",
			"Limit=1":                            "Limit",
			"=1":                                 "",
			"a;b":                                "query",
			"limit=1%zz":                         "query",
			strings.Repeat("x", 2000) + "=1":     "not known",
			"detail=false&" + "detail=" + "true": "detail",
		} {
			got := h.do("GET", list+"?"+query, "")
			assert.Check(t, got.status == 400, "%s?%s: %d %s", list, query, got.status, got.body)
			assert.Check(t, got.code(t) == agentapi.BadRequest)
			assert.Check(t, strings.Contains(got.message(t), says), "%s: %s", query, got.body)
		}
	}
	for _, foreign := range []string{"/v1/exports?detail=true", "/v1/exports?degraded=true", "/v1/snapshots?degraded=true", "/v1/volumes/v/snapshots?degraded=true"} {
		assert.Equal(t, h.do("GET", foreign, "").status, 400, foreign)
	}
	for _, other := range []string{"GET /v1/volumes/v", "DELETE /v1/volumes/v", "POST /v1/volumes", "POST /v1/snapshots", "GET /v1/stats", "GET /v1/volumes/v/usage"} {
		method, path, _ := strings.Cut(other, " ")
		got := h.do(method, path+"?limit=1", `{}`)
		assert.Check(t, got.status == 400, "%s: %d", other, got.status)
		assert.Check(t, strings.Contains(got.message(t), "limit"))
	}
}

func TestUnknownRoutes(t *testing.T) {
	h := start(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/volumes/", "/v1/volume", "/v2/volumes", "/V1/volumes", "/v1/volumes/a/b", "/v1/volumes/v/export/x", "/v1//volumes", "/v1/volumes/../stats", "/metrics"} {
		got := h.do("GET", path, "")
		assert.Equal(t, got.status, 404, path)
		assert.Equal(t, got.code(t), agentapi.NotFound)
		assert.Equal(t, h.do("GET", path, "", "Authorization", "").status, 401, path)
	}
	for _, route := range []string{"POST /v1/stats", "PATCH /v1/volumes", "DELETE /v1/volumes", "GET /v1/clones", "PUT /v1/volumes/v", "OPTIONS /v1/volumes", "TRACE /v1/volumes", "NONSENSE /v1/volumes"} {
		method, path, _ := strings.Cut(route, " ")
		got := h.do(method, path, "")
		assert.Equal(t, got.status, 405, route)
		assert.Equal(t, got.code(t), agentapi.BadRequest)
	}
	assert.Equal(t, h.do("POST", "/v1/stats", "").header.Get("Allow"), "GET, HEAD")
}

func TestHeadersOverTheLimit(t *testing.T) {
	h := start(t)
	got := h.do("GET", "/v1/stats", "", "X-Long", strings.Repeat("x", 2*headerBytes))
	assert.Equal(t, got.status, 431)
	assert.Equal(t, got.code(t), agentapi.BadRequest)
}

// Neither the response to an unreadable header nor the log quotes its token.
func TestBadHeadersAreNotQuoted(t *testing.T) {
	h := start(t)
	for _, header := range []string{
		"Content-Length : 5\r\n\r\n", "Content-Length: -1\r\n\r\n", "Content-Length: 99999999999999999999\r\n\r\n",
		"X: " + strings.Repeat("a", headerBytes) + "\r\n\r\n",
	} {
		conn := h.dial()
		_, err := io.WriteString(conn, "POST /v1/volumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+tokenA+"\r\n"+header)
		assert.NilError(t, err)
		got := readAnswer(t, conn)
		assert.Assert(t, got.status >= 400 && got.status < 500, "%d", got.status)
		assert.Assert(t, !strings.Contains(string(got.body), tokenA), "%s", got.body)
	}
	assert.Assert(t, !strings.Contains(h.log.String(), tokenA), "%s", h.log)
}
