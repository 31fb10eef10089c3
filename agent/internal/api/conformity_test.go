package api

import (
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// Every operation of the contract has a route, and every route is an operation of the contract.
func TestRoutesAreTheContract(t *testing.T) {
	var specified, routed []string
	for path, item := range contractDocument(t).Paths.Map() {
		for method := range item.Operations() {
			specified = append(specified, method+" "+strings.ReplaceAll(path, "{name}", ":name"))
		}
	}
	server := start(t).server
	for _, route := range server.app.GetRoutes(true) {
		if route.Method != http.MethodHead {
			routed = append(routed, route.Method+" "+route.Path)
		}
	}
	slices.Sort(specified)
	slices.Sort(routed)
	assert.DeepEqual(t, routed, specified)
}

// Every route in docs/api.md is one of the contract.
func TestRoutesOfDocument(t *testing.T) {
	document, err := os.ReadFile("../../../docs/api.md")
	assert.NilError(t, err)
	named := regexp.MustCompile("(?:`(?:[A-Z]+ )?|\\$AGENT_URL)(/[^`\\s?]+)").FindAllStringSubmatch(string(document), -1)
	assert.Assert(t, len(named) > 4, "%v", named)
	for _, route := range named {
		assert.Check(t, contractDocument(t).Paths.Value(route[1]) != nil, route[1])
	}
}

// The query parameters of the server are those of the contract.
func TestQueriesAreTheContract(t *testing.T) {
	specified := map[string][]string{}
	for path, item := range contractDocument(t).Paths.Map() {
		for method, operation := range item.Operations() {
			for _, parameter := range operation.Parameters {
				if parameter.Value.In == "query" {
					assert.Equal(t, method, "GET")
					route := strings.ReplaceAll(path, "{name}", ":name")
					specified[route] = append(specified[route], parameter.Value.Name)
				}
			}
		}
	}
	assert.DeepEqual(t, listQueries, specified)
}

// The requests with a body are those of the contract.
func TestBodiesAreTheContract(t *testing.T) {
	for path, item := range contractDocument(t).Paths.Map() {
		for method, operation := range item.Operations() {
			route := strings.ReplaceAll(path, "{name}", ":name")
			assert.Equal(t, takesBody(method, route), operation.RequestBody != nil, "%s %s", method, path)
		}
	}
}

// The routes without a token are those of the contract.
func TestOpenRoutesAreTheContract(t *testing.T) {
	specified := map[string]bool{}
	for path, item := range contractDocument(t).Paths.Map() {
		for _, operation := range item.Operations() {
			if operation.Security != nil && len(*operation.Security) == 0 {
				specified[path] = true
			}
		}
	}
	assert.DeepEqual(t, openRoutes, specified)
}
