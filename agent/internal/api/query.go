package api

import (
	"bytes"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/storage"
	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// listQueries are the query parameters of each list, by route. No other route has any.
var listQueries = map[string][]string{
	"/v1/volumes":                 {"detail", "limit", "after", "label", "degraded"},
	"/v1/volumes/:name/snapshots": {"detail", "limit", "after", "label"},
	"/v1/snapshots":               {"detail", "limit", "after", "label"},
	"/v1/exports":                 {"limit", "after", "label"},
	"/v1/tasks":                   {"label"},
}

// checkQuery refuses unknown parameters, and values of the wrong form. It runs before the generated
// code, whose messages use terms of Go.
func checkQuery(c *fiber.Ctx) error {
	if err := checkQueryText(string(c.Request().URI().QueryString())); err != nil {
		return err
	}
	return c.Next()
}

func checkQueryText(text string) error {
	query, err := url.ParseQuery(text)
	if err != nil {
		return badRequest("the query cannot be read: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) { // so that the same request gets the same response
		if name != "label" && len(query[name]) > 1 {
			return badRequest("query parameter %.64q is given %d times", name, len(query[name]))
		}
		for _, value := range query[name] {
			if err := checkQueryValue(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkQueryValue(name, value string) error {
	if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
		return badRequest("query parameter %.64q is not text", name)
	}
	switch name {
	case "label", "after": // the domain checks them
		return nil
	case "limit":
		if n, err := strconv.Atoi(value); err != nil || n < 1 || n > agentapi.MaxPage {
			return badRequest("query parameter limit is %.32q, it must be a number from 1 to %d", value, agentapi.MaxPage)
		}
		return nil
	case "detail", "degraded":
		if _, err := strconv.ParseBool(value); err != nil {
			return badRequest("query parameter %s is %.32q, it must be true or false", name, value)
		}
		return nil
	}
	return badRequest("query parameter %.64q is not known", name)
}

// refuseForeignQuery refuses parameters of other routes.
func refuseForeignQuery(c *fiber.Ctx, next fiber.Handler) error {
	var allowed []string
	if c.Method() == fiber.MethodGet || c.Method() == fiber.MethodHead {
		allowed = listQueries[c.Route().Path]
	}
	query, err := url.ParseQuery(string(c.Request().URI().QueryString()))
	if err != nil {
		return badRequest("the query cannot be read: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(allowed, name) {
			return badRequest("query parameter %.64q is not taken by this route", name)
		}
	}
	return next(c)
}

// refuseForeignBody refuses fields in the body of a request without one. The handler refuses a bad
// name in the path.
func refuseForeignBody(c *fiber.Ctx, next fiber.Handler) error {
	if takesBody(c.Method(), c.Route().Path) || len(bytes.TrimSpace(c.BodyRaw())) == 0 {
		return next(c)
	}
	name, err := url.PathUnescape(c.Params("name", "none"))
	if err != nil || checkName(name) != nil {
		return next(c)
	}
	if err := decodeBody(c.BodyRaw(), &struct{}{}); err != nil {
		return err
	}
	return next(c)
}

func takesBody(method, route string) bool {
	return method == fiber.MethodPost || method == fiber.MethodPatch || route == "/v1/volumes/:name/export"
}

// storageQuery requests a page of limited size, even if the request names no limit. The cost of one
// request must not depend on how much a tenant has.
func storageQuery(limit *agentapi.Limit, after *agentapi.After, labels *agentapi.Label) storage.Query {
	q := storage.Query{Limit: agentapi.MaxPage, After: valueOf(after), Labels: valueOf(labels)}
	if limit != nil {
		q.Limit = *limit
	}
	return q
}

// valueOf returns the zero value for nil.
func valueOf[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
