package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// image is a container image of one layer that is built locally: there is no registry.
type image struct {
	tags     []string
	config   map[string]any
	programs map[string]string // path in the image -> file on this machine
	busybox  string            // adds its links as well; or empty
}

const (
	pauseImage   = "registry.k8s.io/pause:3.10.1"
	busyboxImage = "docker.io/library/busybox:1.37"
	path         = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// ensureImages writes the archives that every node imports and returns their paths. It is fast
// enough to run each time.
func ensureImages(e *Environment, t *tools) ([]string, error) {
	dir := filepath.Join(e.Cache, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	busybox := filepath.Join(t.runtime, "busybox")
	images := map[string]image{
		"pause": {
			tags: []string{pauseImage}, programs: map[string]string{"pause": filepath.Join(t.helpers, "pause")},
			config: map[string]any{"Entrypoint": []string{"/pause"}, "User": "65535:65535"},
		},
		"busybox": {
			// The tests of Kubernetes use the other tags. The storage specs use only a shell of them.
			tags: []string{
				busyboxImage, "registry.k8s.io/e2e-test-images/busybox:1.37.0-1", "registry.k8s.io/e2e-test-images/busybox:1.36.1-1",
				"registry.k8s.io/e2e-test-images/nginx:1.14-4", "registry.k8s.io/e2e-test-images/jessie-dnsutils:1.7",
			},
			config: map[string]any{"Cmd": []string{"sh"}, "Env": []string{path}}, busybox: busybox,
		},
	}
	if t.suiteTools != "" {
		images["agnhost"] = image{
			tags: []string{"registry.k8s.io/e2e-test-images/agnhost:2.59"}, programs: map[string]string{"agnhost": filepath.Join(t.suiteTools, "agnhost")},
			config: map[string]any{"Entrypoint": []string{"/agnhost"}, "Cmd": []string{"pause"}, "Env": []string{path}}, busybox: busybox,
		}
	}
	var archives []string
	for name, i := range images {
		archive := filepath.Join(dir, name+".tar")
		if err := i.write(archive); err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// write writes an archive in the format of `docker save`, which `ctr images import` reads.
func (i image) write(file string) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z", "config": i.config,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
		"history": []any{map[string]any{"created_by": "btrfs-nfs-csi end-to-end tests"}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": i.tags, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, part := range []struct {
		name string
		data []byte
	}{{"manifest.json", manifest}, {"config.json", config}, {"layer.tar", layer}} {
		if err := addFile(w, part.name, 0o644, part.data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return renameio.WriteFile(file, out.Bytes(), 0o644) // atomically: another run may be reading it
}

func (i image) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	var errs []error
	for _, dir := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "usr", "usr/bin", "var"} {
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		errs = append(errs, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}))
	}
	errs = append(errs,
		addFile(w, "etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")),
		addFile(w, "etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n")))
	for name, file := range i.programs {
		data, err := os.ReadFile(file)
		errs = append(errs, err, addFile(w, name, 0o755, data))
	}
	if i.busybox != "" {
		errs = append(errs, addBusybox(w, i.busybox))
	}
	errs = append(errs, w.Close())
	return out.Bytes(), errors.Join(errs...)
}

func addBusybox(w *tar.Writer, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := addFile(w, "bin/busybox", 0o755, data); err != nil {
		return err
	}
	applets, err := exec.Command(file, "--list").Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(applets)) {
		if name == "busybox" {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}); err != nil {
			return err
		}
	}
	return nil
}

func addFile(w *tar.Writer, name string, mode int64, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := io.Copy(w, bytes.NewReader(data))
	return err
}
