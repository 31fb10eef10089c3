package charttest

import (
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// rules are all rules of roles and cluster roles of a set, as "namespace: verb group/resource
// name"; "*" is every namespace.
func rules(t *testing.T, set string) []string {
	t.Helper()
	var out []string
	for _, o := range render(t, set) {
		kind, _ := o["kind"].(string)
		if kind != "Role" && kind != "ClusterRole" {
			continue
		}
		namespace, ok := o.get("metadata", "namespace").(string)
		if !ok {
			namespace = "*"
		}
		list, _ := o["rules"].([]any)
		for _, r := range list {
			rule := object(r.(map[string]any))
			for _, group := range rule.strings("apiGroups") {
				for _, resource := range rule.strings("resources") {
					for _, verb := range rule.strings("verbs") {
						names := strings.Join(rule.strings("resourceNames"), ",")
						out = append(out, strings.TrimSpace(namespace+": "+verb+" "+group+"/"+resource+" "+names))
					}
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func secretRules(t *testing.T, set string) []string {
	return slices.DeleteFunc(rules(t, set), func(r string) bool { return !strings.Contains(r, "/secrets") })
}

// TestSecrets: only those that the classes name, unless the owner chooses otherwise.
func TestSecrets(t *testing.T) {
	assert.Equal(t, len(secretRules(t, "default")), 0)
	assert.DeepEqual(t, secretRules(t, "classes"), []string{
		"databases: get /secrets database-token",
		"storage: get /secrets archive-token,fast-agent",
	})
	assert.DeepEqual(t, secretRules(t, "everything"), []string{
		"team-a: get /secrets",
		"team-b: get /secrets",
	})
	assert.DeepEqual(t, secretRules(t, "small"), []string{"*: get /secrets"})
}

// TestNoWideRights: no wildcard, nothing that hands out rights, nothing that deletes but what the
// provisioner made.
func TestNoWideRights(t *testing.T) {
	for set := range valueSets(t) {
		for _, rule := range rules(t, set) {
			_, right, _ := strings.Cut(rule, ": ")
			verb, resource, _ := strings.Cut(right, " ")
			assert.Check(t, !strings.Contains(right, "*"), rule)
			assert.Check(t, !slices.Contains([]string{"escalate", "bind", "impersonate", "deletecollection"}, verb), rule)
			if verb == "delete" {
				assert.Check(t, is.Contains([]string{"/persistentvolumes", "storage.k8s.io/csistoragecapacities"}, resource))
			}
		}
	}
}

// TestNodeHasNoRights: a worker node that is taken over must not give its taker anything in the
// cluster.
func TestNodeHasNoRights(t *testing.T) {
	for set := range valueSets(t) {
		for key, o := range render(t, set) {
			if !strings.HasSuffix(o["kind"].(string), "RoleBinding") {
				continue
			}
			subjects, _ := o["subjects"].([]any)
			for _, s := range subjects {
				name, _ := s.(map[string]any)["name"].(string)
				assert.Check(t, strings.HasSuffix(name, "-controller"), "%s binds %s", key, name)
			}
		}
		for _, o := range render(t, set) {
			if o["kind"] == "DaemonSet" {
				assert.Equal(t, o.get("spec", "template", "spec", "automountServiceAccountToken"), false)
			}
		}
	}
}

// TestSnapshotRightsGoWithSnapshots: a cluster without their CRDs gets no rights for them.
func TestSnapshotRightsGoWithSnapshots(t *testing.T) {
	for set, want := range map[string]int{"small": 0, "default": 12, "classes": 12} {
		snapshots := slices.DeleteFunc(rules(t, set), func(r string) bool { return !strings.Contains(r, "snapshot.storage") })
		assert.Check(t, is.Len(snapshots, want), "%s: %v", set, snapshots)
	}
}
