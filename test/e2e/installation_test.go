package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// TestDocumentedInstallation runs the commands of docs/quickstart.md for the first claim and its
// pod. The controller reads the secret of the claim's class and no other. With -documented, as in
// make e2e-smoke, the chart is installed by the commands of that document too.
func TestDocumentedInstallation(t *testing.T) {
	s := newScenario(t)
	for secret, may := range map[string]bool{"btrfs-agent": true, "another": false, "": false} {
		assert.Equal(t, s.controllerMayRead(secret), may, "secret %q", secret)
	}
	s.documented("The first claim", "claim.yaml", "Bound")
	s.documented("A pod that uses it", "pod.yaml", ":")
	s.kubectl("delete", "pod", "first", "--grace-period=1", "--wait=false") // its shell ignores SIGTERM
}

// documented runs the commands in a section of docs/quickstart.md, which names the section's YAML
// file. It repeats the last command until its output has the text.
func (s *scenario) documented(section, name, text string) {
	s.Helper()
	objects, err := s.cluster.Documented(cluster.InstallationDocument, section, "yaml")
	assert.NilError(s, err)
	block, err := s.cluster.Documented(cluster.InstallationDocument, section, "")
	assert.NilError(s, err)
	file := filepath.Join(s.TempDir(), name)
	assert.NilError(s, os.WriteFile(file, []byte(objects), 0o600))

	commands := cluster.Commands(strings.ReplaceAll(block, name, file))
	for _, command := range commands {
		assert.Equal(s, command[0], "kubectl")
	}
	last := len(commands) - 1
	for _, command := range commands[:last] {
		s.kubectl(command[1:]...)
	}
	s.eventually(section, func() error {
		out := s.kubectl(commands[last][1:]...)
		if !strings.Contains(out, text) {
			return fmt.Errorf("%q has no %q", out, text)
		}
		s.Log(out)
		return nil
	})
}

// controllerMayRead asks the API server whether the controller may read a secret in the chart's
// namespace, or all secrets with no name.
func (s *scenario) controllerMayRead(secret string) bool {
	s.Helper()
	review, err := s.client.AuthorizationV1().SubjectAccessReviews().Create(s.ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:               "system:serviceaccount:" + cluster.Namespace + ":" + cluster.Release + "-controller",
		Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + cluster.Namespace, "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: cluster.Namespace, Verb: "get", Resource: "secrets", Name: secret},
	}}, metav1.CreateOptions{})
	assert.NilError(s, err)
	return review.Status.Allowed
}
