package api

import (
	"encoding/json"
	"net/url"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/shared/agentapi"
)

// FuzzBodies checks decodeBody. What it accepts is one JSON object, survives a round trip, and has
// only fields of the contract. What it refuses is BadRequest.
func FuzzBodies(f *testing.F) {
	for _, route := range bodyRoutes {
		f.Add([]byte(route.good))
	}
	for _, seed := range []string{
		``, `null`, `{}`, `{"name":"v","size_bytes":1,"quota_bytes":2,"nocow":true,"compression":"zstd:3","uid":1,"gid":2,"mode":"755","labels":{"a":"b"}}`,
		`{"opts":{"readonly":"true"},"timeout":"1h","labels":{"a":"b"}}`, `{"size_limit":false,"mount_options":["a",""]}`, `{"size_bytes":1e3}`, `{"NAME":"x"}`, `{"labels":{"a":null}}`, `{} {}`, "{\"name\":\"\xff\"}", `{"name":"\ud800"}`, `[[[[`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, out := range []any{
			&agentapi.VolumeCreate{}, &agentapi.VolumeClone{}, &agentapi.SnapshotClone{}, &agentapi.VolumeUpdate{},
			&agentapi.SnapshotCreate{}, &agentapi.ExportRequest{}, &agentapi.UnexportRequest{}, &agentapi.TaskStart{},
		} {
			if err := decodeBody(body, out); err != nil {
				if !agentapi.IsCode(err, agentapi.BadRequest) || !utf8.ValidString(err.Error()) || len(err.Error()) > 1000 {
					t.Fatalf("%q: %v", body, err)
				}
				continue
			}
			var fields map[string]any
			if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
				t.Fatalf("%q was taken, but is no JSON object: %v", body, err)
			}
			again, err := json.Marshal(out)
			if err != nil {
				t.Fatal(err)
			}
			if err := decodeBody(again, out); err != nil {
				t.Fatalf("%q became %q, which is refused: %v", body, again, err)
			}
		}
	})
}

func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"", "limit=1", "limit=1000&after=x&label=a=b&label=c&detail=true", "limit=1;2", "label=%zz", "%00=1", "detail=TRUE", "degraded=true", "degraded=1&degraded=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := checkQueryText(text); err != nil {
			if !agentapi.IsCode(err, agentapi.BadRequest) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		query, err := url.ParseQuery(text)
		if err != nil {
			t.Fatalf("%q was taken: %v", text, err)
		}
		known := []string{"detail", "degraded", "limit", "after", "label"}
		for name, values := range query {
			if !slices.Contains(known, name) || name != "label" && len(values) != 1 {
				t.Fatalf("%q was taken: %v", text, query)
			}
		}
	})
}

func FuzzAuthorization(f *testing.F) {
	for _, seed := range []string{"", "Bearer x", "Basic eDp5", "Basic Og==", "bearer  x", "Basic !"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		if token, ok := tokenOf(header); ok && token == "" {
			t.Fatalf("%q holds an empty token", header)
		}
	})
}
