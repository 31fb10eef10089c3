package charttest

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"sigs.k8s.io/yaml"
)

// yamlBlocks are those of a document that have the text.
func yamlBlocks(t *testing.T, document, with string) []string {
	t.Helper()
	text, err := os.ReadFile("../../" + document)
	assert.NilError(t, err)
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```").FindAllStringSubmatch(string(text), -1) {
		if block := regexp.MustCompile("(?m)^"+m[1]).ReplaceAllString(m[2], ""); strings.Contains(block, with) {
			found = append(found, block)
		}
	}
	return found
}

// The commands of docs/quickstart.md give a class whose secret exists, and a controller that may
// read it.
func TestInstallationDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/quickstart.md")
	assert.NilError(t, err)
	secret := regexp.MustCompile(`kubectl -n (\S+) create secret generic (\S+) --from-literal=agentToken=TOKEN\n`).FindStringSubmatch(string(text))
	assert.Assert(t, is.Len(secret, 3))
	namespace, name := secret[1], secret[2]
	assert.Assert(t, is.Contains(string(text), "helm install -n "+namespace+" "+releaseName+" ./helm/btrfs-nfs-csi -f values.yaml\n"))
	documented := yamlBlocks(t, "docs/quickstart.md", "storageClasses:")
	assert.Assert(t, is.Len(documented, 1))
	claims := yamlBlocks(t, "docs/quickstart.md", "kind: PersistentVolumeClaim")
	assert.Assert(t, is.Len(claims, 1))
	for _, values := range append(yamlBlocks(t, "README.md", "storageClasses:"), documented...) {
		checkInstallation(t, values, namespace, name, claims[0])
	}
}

func checkInstallation(t *testing.T, text, namespace, secret, claim string) {
	t.Helper()
	var values map[string]any
	assert.NilError(t, yaml.Unmarshal([]byte(text), &values))
	objects := renderValues(t, namespace, values)
	class := objects["StorageClass//btrfs"]
	assert.Assert(t, class != nil)
	for _, operation := range []string{"provisioner", "controller-publish", "controller-expand"} {
		assert.Equal(t, class.get("parameters", "csi.storage.k8s.io/"+operation+"-secret-name"), secret)
		assert.Equal(t, class.get("parameters", "csi.storage.k8s.io/"+operation+"-secret-namespace"), namespace)
	}
	assert.Assert(t, is.Contains(claim, "storageClassName: btrfs\n"))
	key := "/" + namespace + "/btrfs-nfs-csi-controller"
	role, binding, deployment := objects["Role"+key+"-secrets"], objects["RoleBinding"+key+"-secrets"], objects["Deployment"+key]
	assert.Assert(t, role != nil && binding != nil && deployment != nil)
	assert.DeepEqual(t, role["rules"], []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"secrets"}, "verbs": []any{"get"}, "resourceNames": []any{secret}}})
	assert.Equal(t, binding.get("roleRef", "name"), role.get("metadata", "name"))
	account := deployment.get("spec", "template", "spec", "serviceAccountName")
	assert.DeepEqual(t, binding["subjects"], []any{map[string]any{"kind": "ServiceAccount", "name": account, "namespace": namespace}})
}
