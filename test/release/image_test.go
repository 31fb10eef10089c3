//go:build release || lab

package release

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// image is an OCI archive, unpacked.
type image struct {
	root   string
	config struct {
		Architecture string
		Config       struct {
			User       string
			Entrypoint []string
			Labels     map[string]string
		}
	}
}

func open(t *testing.T, name string) image {
	t.Helper()
	dir := os.Getenv("BNC_IMAGES")
	assert.Assert(t, dir != "", "BNC_IMAGES names the directory of images: run make release-test")
	files, err := filepath.Glob(filepath.Join(dir, name+"-*.tar"))
	assert.NilError(t, err)
	assert.Equal(t, len(files), 1, "%v", files)
	layout := t.TempDir()
	command(t, "tar", "-C", layout, "-xf", files[0])
	type blob struct{ Digest string }
	var index struct{ Manifests []blob }
	var manifest struct {
		Config blob
		Layers []blob
	}
	path := func(b blob) string {
		return filepath.Join(layout, "blobs", strings.ReplaceAll(b.Digest, ":", "/"))
	}
	decode(t, filepath.Join(layout, "index.json"), &index)
	decode(t, path(index.Manifests[0]), &manifest)
	i := image{root: t.TempDir()}
	assert.NilError(t, os.Chmod(i.root, 0o755))
	decode(t, path(manifest.Config), &i.config)
	for _, layer := range manifest.Layers {
		command(t, "tar", "-C", i.root, "-xf", path(layer))
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

