//go:build release || lab

package release

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// image is an unpacked image of an OCI archive.
type image struct {
	root   string
	config struct {
		Architecture string
		Config       struct {
			User       string
			Entrypoint []string
			Env        []string
			Labels     map[string]string
		}
	}
}

// open unpacks the image for this machine.
func open(t *testing.T, name string) image {
	t.Helper()
	return layoutOf(t, name).open(t)
}

func (l layout) open(t *testing.T) image {
	t.Helper()
	for _, m := range l.manifests(t) {
		if m.Platform.Architecture == runtime.GOARCH {
			return l.unpack(t, m)
		}
	}
	t.Fatalf("no image for %s", runtime.GOARCH)
	return image{}
}

// layout is an OCI image layout (image-spec, image-layout.md).
type layout string

type blob struct {
	MediaType, Digest string
	Platform          struct{ OS, Architecture string }
}

func layoutOf(t *testing.T, name string) layout {
	t.Helper()
	dir := os.Getenv("BNC_IMAGES")
	assert.Assert(t, dir != "", "BNC_IMAGES names the directory of images: run make release-test")
	return layoutIn(t, filepath.Join(dir, name+".tar"))
}

func layoutIn(t *testing.T, archive string) layout {
	t.Helper()
	l := t.TempDir()
	command(t, "tar", "-C", l, "-xf", archive)
	return layout(l)
}

func (l layout) path(b blob) string {
	return filepath.Join(string(l), "blobs", strings.ReplaceAll(b.Digest, ":", "/"))
}

// manifests returns those of the images, one per architecture.
func (l layout) manifests(t *testing.T) []blob {
	t.Helper()
	var top, list struct{ Manifests []blob }
	decode(t, filepath.Join(string(l), "index.json"), &top)
	assert.Equal(t, len(top.Manifests), 1)
	assert.Equal(t, top.Manifests[0].MediaType, "application/vnd.oci.image.index.v1+json")
	decode(t, l.path(top.Manifests[0]), &list)
	return list.Manifests
}

func (l layout) unpack(t *testing.T, m blob) image {
	t.Helper()
	var manifest struct {
		Config blob
		Layers []blob
	}
	decode(t, l.path(m), &manifest)
	i := image{root: t.TempDir()}
	assert.NilError(t, os.Chmod(i.root, 0o755))
	decode(t, l.path(manifest.Config), &i.config)
	for _, layer := range manifest.Layers {
		command(t, "tar", "-C", i.root, "-xf", l.path(layer))
	}
	return i
}

func decode(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.NilError(t, json.Unmarshal(content, into))
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	assert.NilError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}
