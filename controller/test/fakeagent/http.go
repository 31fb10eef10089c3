package fakeagent

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// call is one request of one tenant.
type call struct {
	agent  *Agent
	tenant *tenant
	w      http.ResponseWriter
	r      *http.Request
}

func (c *call) route() {
	path := strings.TrimPrefix(c.r.URL.Path, "/v1/")
	head, rest, _ := strings.Cut(path, "/")
	name, action, _ := strings.Cut(rest, "/")
	var err error
	switch key := c.r.Method + " " + head; {
	case key == "POST volumes" && rest == "":
		err = c.createVolume()
	case key == "POST volumes" && rest == "clone":
		err = c.cloneVolume()
	case key == "POST volumes" && action == "export":
		err = c.export(name)
	case key == "DELETE volumes" && action == "export":
		err = c.unexport(name)
	case key == "GET volumes" && rest == "":
		err = c.listVolumes()
	case key == "GET volumes" && action == "snapshots":
		err = c.listSnapshots(name)
	case key == "GET volumes" && action == "usage":
		err = c.usage(name)
	case key == "GET volumes" && action == "":
		err = c.getVolume(name)
	case key == "PATCH volumes":
		err = c.updateVolume(name)
	case key == "DELETE volumes":
		err = c.deleteVolume(name)
	case key == "POST clones":
		err = c.cloneSnapshot()
	case key == "POST snapshots":
		err = c.createSnapshot()
	case key == "GET snapshots" && rest == "":
		err = c.listSnapshots("")
	case key == "GET snapshots":
		err = c.getSnapshot(rest)
	case key == "DELETE snapshots":
		c.deleteSnapshot(rest)
	case key == "GET stats":
		c.stats()
	default:
		err = agentapi.Errorf(agentapi.NotFound, "no such path")
	}
	if err != nil {
		Fail(c.w, err)
	}
}

// Fail answers with an error.
func Fail(w http.ResponseWriter, err error) {
	answer(w, agentapi.HTTPStatus(err), agentapi.ErrorBody{Error: err.Error(), Code: agentapi.CodeOf(err)})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body == nil {
		return
	}
	if err := json.NewEncoder(w).Encode(body); err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
}

func (c *call) read(into any) error {
	decoder := json.NewDecoder(io.LimitReader(c.r.Body, agentapi.MaxBodyBytes))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil && !errors.Is(decoder.Decode(&struct{}{}), io.EOF) {
		err = errors.New("more than one value")
	}
	if err != nil {
		return agentapi.Errorf(agentapi.BadRequest, "body: %w", err)
	}
	return c.refuseNewer(into)
}

// refuseNewer refuses fields that an agent with these features does not know.
func (c *call) refuseNewer(request any) error {
	fields, err := agentapi.NewerFields(reflect.ValueOf(request).Elem().Interface())
	if err != nil {
		return err
	}
	for _, field := range fields {
		if !slices.Contains(c.agent.Features, field.Feature) {
			return agentapi.Errorf(agentapi.BadRequest, "body: unknown field %q", field.Name)
		}
	}
	return nil
}
