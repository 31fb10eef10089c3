package controllertest

import (
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"gotest.tools/v3/assert"
)

var cachingTests = []behaviour{
	{"the access mode chooses, and the class before it", cachingOfMode},
	{"options of the class set it where no caching is named", cachingByOptions},
	{"contradictions are refused", cachingContradictions},
	{"contradictions are refused when the class is made again", cachingOfNewClass},
	{"a volume's own goes before the class's, from the next publication on", cachingOfVolume},
	{"a volume and a copy are made with it", cachingAtCreation},
}

// lookups returns the lookupcache option for a node, "" if there is none.
func (e *testEnv) lookups(volumeID string, mode csi.VolumeCapability_AccessMode_Mode) string {
	e.Helper()
	context := e.publish(volumeID, node1, mode)
	e.unpublish(volumeID, node1)
	options := slices.DeleteFunc(strings.Split(context["nfsMountOptions"], ","), func(option string) bool { return !strings.HasPrefix(option, "lookupcache=") })
	return strings.Join(options, ",")
}

func (e *testEnv) withClass(b Backend, parameters map[string]string) *testEnv {
	parameters["agentURL"] = e.url
	return startWith(e.T, b, e.url, []Class{{Name: className, Token: token, Parameters: parameters}})
}

func cachingOfMode(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	for caching, want := range map[string]map[bool]string{
		"":       {true: "lookupcache=none", false: ""},
		"shared": {true: "lookupcache=none", false: "lookupcache=none"},
		"fast":   {true: "lookupcache=all", false: "lookupcache=all"},
	} {
		parameters := map[string]string{}
		if caching != "" {
			parameters["caching"] = caching
		}
		e := e.withClass(b, parameters) // the volume is older than the parameter
		for name, mode := range csi.VolumeCapability_AccessMode_Mode_value {
			if name != "UNKNOWN" {
				have := e.lookups(volume, csi.VolumeCapability_AccessMode_Mode(mode))
				assert.Equal(t, have, want[strings.HasPrefix(name, "MULTI_NODE")], "caching %q, %s", caching, name)
			}
		}
		r := request("new-"+caching, gib)
		r.Parameters = map[string]string{"storageClassName": className}
		assert.Equal(t, e.create(r).VolumeContext["caching"], caching)
	}
}

func cachingByOptions(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	for _, option := range []string{"lookupcache=positive", "lookupcache=all", "lookupcache=none"} {
		e := e.withClass(b, map[string]string{"nfsMountOptions": option + ",nocto"})
		assert.Equal(t, e.lookups(volume, manyWriters), option)
		assert.Equal(t, e.lookups(volume, oneNode), option)
		e.volume("new")
		assert.NilError(t, e.modify(volume, map[string]string{"nfsMountOptions": "lookupcache=pos"}))
		assert.Equal(t, e.lookups(volume, manyWriters), "lookupcache=pos")
		assert.NilError(t, e.modify(volume, map[string]string{"nfsMountOptions": ""}))
		assert.Equal(t, e.lookups(volume, manyWriters), option)
	}
}

// contradictions maps a caching policy to the mount options that contradict it.
var contradictions = map[string][]string{
	"shared": {"lookupcache=all", "lookupcache=positive", "lookupcache=pos", "nocto", "noatime,lookupcache=all", "lookupcache=none,lookupcache=all"},
	"fast":   {"lookupcache=none", "lookupcache=positive", "noac", "hard,noac"},
}

func cachingContradictions(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	for caching, all := range contradictions {
		for _, options := range all {
			option := "contradicts caching \"" + caching + "\""
			create := func(class, flags string, mutable map[string]string) error {
				r := request("refused", gib)
				r.Parameters["caching"] = caching
				if class != "" {
					r.Parameters["nfsMountOptions"] = class
				}
				if flags != "" {
					r.VolumeCapabilities[0].GetMount().MountFlags = []string{"hard", flags}
				}
				r.MutableParameters = mutable
				_, err := e.CreateVolume(e.ctx, r)
				return err
			}
			failed(t, create(options, "", nil), codes.InvalidArgument, "nfsMountOptions", option)
			failed(t, create("", options, nil), codes.InvalidArgument, "mount_flags", option)
			failed(t, create("", "", map[string]string{"nfsMountOptions": options}), codes.InvalidArgument, "nfsMountOptions", option)
			both := map[string]string{"caching": caching, "nfsMountOptions": options}
			failed(t, create("", "", both), codes.InvalidArgument, "nfsMountOptions", option)
			failed(t, e.modify(volume, both), codes.InvalidArgument, "nfsMountOptions", option)

			c := capability(manyWriters)
			answer, err := e.ValidateVolumeCapabilities(e.ctx, &csi.ValidateVolumeCapabilitiesRequest{
				VolumeId: volume, VolumeCapabilities: []*csi.VolumeCapability{c}, MutableParameters: map[string]string{"caching": caching},
			})
			assert.NilError(t, err)
			assert.Assert(t, answer.Confirmed != nil, answer.Message)
			c.GetMount().MountFlags = []string{options}
			answer, err = e.ValidateVolumeCapabilities(e.ctx, &csi.ValidateVolumeCapabilitiesRequest{
				VolumeId: volume, VolumeCapabilities: []*csi.VolumeCapability{c}, MutableParameters: map[string]string{"caching": caching},
			})
			assert.NilError(t, err)
			assert.Assert(t, answer.Confirmed == nil, "%s with %s", caching, options)
		}
	}
	assert.DeepEqual(t, e.listAll(0), []string{volume})
	assert.Equal(t, e.lookups(volume, manyWriters), "lookupcache=none")
}

// Existing volumes are found and can be deleted, and are not published to any node.
func cachingOfNewClass(t *testing.T, b Backend) {
	e := start(t, b)
	volume := e.volume("pvc-1").VolumeId
	flags := capability(manyWriters)
	flags.GetMount().MountFlags = []string{"lookupcache=all"}
	publish := func(e *testEnv, c *csi.VolumeCapability) error {
		_, err := e.ControllerPublishVolume(e.ctx, &csi.ControllerPublishVolumeRequest{VolumeId: volume, NodeId: node1, VolumeCapability: c})
		return err
	}
	assert.NilError(t, publish(e, flags), "the flags are after the default")

	shared := e.withClass(b, map[string]string{"caching": "shared"})
	failed(t, publish(shared, flags), codes.InvalidArgument, "mount_flags", "lookupcache=all", "shared")
	failed(t, shared.modify(volume, map[string]string{"nfsMountOptions": "nocto"}), codes.InvalidArgument, "nfsMountOptions", "nocto")
	assert.NilError(t, shared.modify(volume, map[string]string{"caching": "fast", "nfsMountOptions": "nocto"}))
	assert.NilError(t, publish(shared, flags))

	wrong := e.withClass(b, map[string]string{"caching": "shared", "nfsMountOptions": "lookupcache=all"})
	failed(t, wrong.modify(volume, map[string]string{"caching": "shared"}), codes.InvalidArgument, "nfsMountOptions", "nocto")
	_, err := wrong.CreateVolume(wrong.ctx, request("new", gib))
	failed(t, err, codes.InvalidArgument, "nfsMountOptions", "lookupcache=all")
	wrong.unpublish(volume, node1)
	wrong.delete(volume)
}

func cachingOfVolume(t *testing.T, b Backend) {
	e := start(t, b)
	e = e.withClass(b, map[string]string{"caching": "shared", "nfsMountOptions": "timeo=600"})
	volume := e.volume("pvc-1").VolumeId
	want := func(lookups string) {
		t.Helper()
		assert.Equal(t, e.lookups(volume, manyWriters), lookups)
		assert.Equal(t, e.lookups(volume, oneNode), lookups)
	}
	want("lookupcache=none")
	before := e.publish(volume, node2, manyWriters)
	for range 2 {
		assert.NilError(t, e.modify(volume, map[string]string{"caching": "fast"}))
	}
	e.unpublish(volume, node2)
	want("lookupcache=all")
	assert.Assert(t, strings.Contains(before["nfsMountOptions"], "lookupcache=none"))

	// Properties that are not named stay.
	for _, other := range []map[string]string{{"labels": "team=blue"}, {"nfsMountOptions": "noatime"}, {"nfsMountOptions": ""}, {"labels": ""}, {"gid": "7"}} {
		assert.NilError(t, e.modify(volume, other))
		want("lookupcache=all")
	}
	assert.NilError(t, e.modify(volume, map[string]string{"caching": "shared", "labels": "a=b"}))
	want("lookupcache=none")
	assert.Equal(t, e.stored(volume).Labels["a"], "b")
	failed(t, e.modify(volume, map[string]string{"labels": "caching=fast"}), codes.InvalidArgument, "labels", "caching")
}

func cachingAtCreation(t *testing.T, b Backend) {
	e := start(t, b)
	e = e.withClass(b, map[string]string{"caching": "shared"})
	source := e.volume("source").VolumeId
	for name, content := range map[string]*csi.VolumeContentSource{"empty": nil, "copy": fromVolume(source)} {
		r := request(name, gib)
		r.VolumeContentSource = content
		r.MutableParameters = map[string]string{"caching": "fast"}
		for range 2 {
			assert.Equal(t, e.lookups(e.create(r).VolumeId, manyWriters), "lookupcache=all")
		}
		r.MutableParameters["caching"] = "shared"
		_, err := e.CreateVolume(e.ctx, r)
		failed(t, err, codes.AlreadyExists, "caching")
	}
	r := request("of-a-fast-one", gib)
	r.VolumeContentSource = fromVolume("fast|copy")
	assert.Equal(t, e.lookups(e.create(r).VolumeId, manyWriters), "lookupcache=none", "a copy is of its class")
}
