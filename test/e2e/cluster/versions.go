package cluster

import (
	"debug/buildinfo"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// notable are modules whose versions say what a run was made of.
var notable = regexp.MustCompile(`^(k8s\.io/kubernetes|go\.etcd\.io/etcd/server/v3|github\.com/kubernetes-csi/external-(provisioner|attacher|snapshotter|resizer)(/v\d+)?)$`)

// Versions are the modules, as PATH@VERSION, of the programs of others that the cluster runs, as their files tell.
func (c *Cluster) Versions() []string {
	var out []string
	for _, dir := range []string{c.tools.kubernetes, c.tools.etcd, c.tools.provisioner, c.tools.sidecars} {
		files, _ := filepath.Glob(dir + "/*") // fails for a malformed pattern only
		for _, file := range files {
			info, err := buildinfo.ReadFile(file)
			if err != nil {
				continue // not a Go program
			}
			for _, module := range append(info.Deps, &info.Main) {
				// A program that merely links another's library says nothing of that one.
				if notable.MatchString(module.Path) && strings.HasPrefix(info.Path, module.Path) {
					out = append(out, module.Path+"@"+module.Version)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
