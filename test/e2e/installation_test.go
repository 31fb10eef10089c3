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

// TestDocumentedInstallation: the first volume of docs/installation.md comes up by what is typed there, and the controller reads its secret
// and no other. With -documented, as in make e2e-smoke, the chart has been installed as it says there, too.
func TestDocumentedInstallation(t *testing.T) {
	s := newScenario(t)
	for secret, may := range map[string]bool{"btrfs-agent": true, "another": false, "": false} {
		assert.Equal(t, s.controllerMayRead(secret), may, "secret %q", secret)
	}
	objects, err := s.cluster.Documented(cluster.InstallationDocument, "The first volume", "yaml")
	assert.NilError(t, err)
	commands, err := s.cluster.Documented(cluster.InstallationDocument, "The first volume", "")
	assert.NilError(t, err)
	file := filepath.Join(t.TempDir(), "first.yaml")
	assert.NilError(t, os.WriteFile(file, []byte(objects), 0o600))
	for _, command := range cluster.Commands(commands) {
		assert.Equal(t, command[0], "kubectl")
		args := command[1:]
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "first.yaml", file)
		}
		if args[0] != "logs" {
			s.kubectl(args...)
			continue
		}
		s.eventually("the pod has written to its volume and read that", func() error {
			if said := s.kubectl(args...); !strings.Contains(said, ":") {
				return fmt.Errorf("it says %q", said)
			}
			return nil
		})
	}
	s.bound("data")
	s.kubectl("delete", "pod", "first", "--grace-period=1", "--wait=false") // its shell does not heed SIGTERM
}

// controllerMayRead asks for a secret beside the chart, or for all with no name.
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
