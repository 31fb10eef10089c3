package cluster

import (
	"debug/buildinfo"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// notable matches modules whose versions identify the environment of a run.
var notable = regexp.MustCompile(`^(k8s\.io/kubernetes|go\.etcd\.io/etcd/server/v3|github\.com/kubernetes-csi/external-(provisioner|attacher|snapshotter|resizer)(/v\d+)?)$`)

// Versions returns the modules, as PATH@VERSION, of the third-party programs in the cluster,
// according to their files.
func (c *Cluster) Versions() []string {
	var out []string
	for _, dir := range []string{c.tools.kubernetes, c.tools.etcd, c.tools.provisioner, c.tools.sidecars} {
		files, _ := filepath.Glob(dir + "/*") // fails only for a malformed pattern
		for _, file := range files {
			info, err := buildinfo.ReadFile(file)
			if err != nil {
				continue // not a Go program
			}
			for _, module := range append(info.Deps, &info.Main) {
				// A program that only links a library does not represent the library's version.
				if notable.MatchString(module.Path) && strings.HasPrefix(info.Path, module.Path) {
					out = append(out, module.Path+"@"+module.Version)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
