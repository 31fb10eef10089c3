package charttest

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	chart3 "helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	engine3 "helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v4/pkg/chart/common"
	commonutil "helm.sh/helm/v4/pkg/chart/common/util"
	chart4 "helm.sh/helm/v4/pkg/chart/v2/loader"
	engine4 "helm.sh/helm/v4/pkg/engine"
)

// The release in all renders.
const (
	releaseName      = "btrfs-nfs-csi"
	releaseNamespace = "storage"
	// testedKubernetes is the version of the end-to-end tests.
	testedKubernetes = "v1.35.4"
)

// renderHelm3 renders with the engine of Helm 3, the schema checked, as one stream of documents.
func renderHelm3(dir, kubeVersion string, values map[string]any) (string, error) {
	return renderIn(releaseNamespace, dir, kubeVersion, values)
}

func renderIn(namespace, dir, kubeVersion string, values map[string]any) (string, error) {
	chart, err := chart3.LoadDir(dir)
	if err != nil {
		return "", err
	}
	version, err := chartutil.ParseKubeVersion(kubeVersion)
	if err != nil {
		return "", err
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	release := chartutil.ReleaseOptions{Name: releaseName, Namespace: namespace, IsInstall: true, Revision: 1}
	all, err := chartutil.ToRenderValues(chart, values, release, capabilities)
	if err != nil {
		return "", err
	}
	files, err := engine3.Render(chart, all)
	if err != nil {
		return "", err
	}
	return stream(files), nil
}

// renderHelm4 is renderHelm3 with the engine of Helm 4.
func renderHelm4(dir, kubeVersion string, values map[string]any) (string, error) {
	chart, err := chart4.LoadDir(dir)
	if err != nil {
		return "", err
	}
	version, err := common.ParseKubeVersion(kubeVersion)
	if err != nil {
		return "", err
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	release := common.ReleaseOptions{Name: releaseName, Namespace: releaseNamespace, IsInstall: true, Revision: 1}
	all, err := commonutil.ToRenderValues(chart, values, release, capabilities)
	if err != nil {
		return "", err
	}
	files, err := engine4.Render(chart, all)
	if err != nil {
		return "", err
	}
	return stream(files), nil
}

// stream joins the files in the order of their names and leaves out those that made nothing.
func stream(files map[string]string) string {
	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := strings.TrimSpace(files[name])
		if text == "" || strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		fmt.Fprintf(&out, "---\n# Source: %s\n%s\n", name, strings.TrimPrefix(text, "---\n"))
	}
	return out.String()
}
