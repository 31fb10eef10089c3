package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Right is one permission that a container of the chart has, or has used.
type Right struct {
	// Container is the role's component in the chart, "" for rights that all containers share.
	Container             string
	Verb, Group, Resource string // the resource with its subresource
}

func (r Right) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s: %s %s.%s", r.Container, r.Verb, r.Resource, r.Group))
}

// Audit compares the requests of the chart's service account since the start with the permissions
// that the chart grants.
type Audit struct {
	Granted []Right          // granted by the chart
	Refused map[Right]string // missing permissions, each with the path of one such request
	Lent    []Right          // used by a container, but granted only by another container's role: they share an account
	Unused  []Right          // granted by the chart and not used
	Used    map[Right]int    // requests
}

// containers maps the first part of the user agent, which client-go derives from the program's
// name, to the component of the role.
var containers = map[string]string{
	"btrfs-nfs-controller": "controller", "csi-provisioner": "provisioner", "csi-attacher": "attacher",
	"csi-snapshotter": "snapshotter", "csi-resizer": "resizer",
}

type auditEvent struct {
	Verb           string
	UserAgent      string
	RequestURI     string
	User           struct{ Username string }
	ObjectRef      *struct{ Resource, Subresource, APIGroup string }
	ResponseStatus struct {
		Code    int
		Details struct {
			Causes []struct{ Reason string }
		}
	}
}

// forbidden reports whether a permission was missing. A namespace that is being deleted refuses new
// objects with the same code.
func (e auditEvent) forbidden() bool {
	for _, cause := range e.ResponseStatus.Details.Causes {
		if cause.Reason == string(corev1.NamespaceTerminatingCause) {
			return false
		}
	}
	return e.ResponseStatus.Code == http.StatusForbidden
}

// Audit reads the API server's audit log.
func (c *Cluster) Audit(ctx context.Context) (*Audit, error) {
	a := &Audit{Used: map[Right]int{}}
	if err := a.read(c.auditLog()); err != nil {
		return nil, err
	}
	granted, err := c.granted(ctx)
	if err != nil {
		return nil, err
	}
	a.Granted = granted
	for _, right := range granted {
		if !a.used(right) {
			a.Unused = append(a.Unused, right)
		}
	}
	for used := range a.Used {
		shared := used
		shared.Container = ""
		if used.Container != "" && !slices.Contains(granted, used) && !slices.Contains(granted, shared) {
			a.Lent = append(a.Lent, used)
		}
	}
	return a, nil
}

// used reports whether a right was used. An informer that watches also lists if the API server
// cannot send the initial state in the watch (WatchList, used by clients since Kubernetes 1.35 and
// by servers since 1.34).
func (a *Audit) used(right Right) bool {
	if right.Verb == "list" {
		watch := right
		watch.Verb = "watch"
		if a.used(watch) {
			return true
		}
	}
	if right.Container != "" {
		return a.Used[right] > 0
	}
	for used := range maps.Keys(a.Used) {
		if used.Container = ""; used == right {
			return true
		}
	}
	return false
}

func (a *Audit) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	refused := map[Right]string{} // an example of each
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20) // bytes; an event without bodies is some 2 KiB
	for lines.Scan() {
		var e auditEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the last line may be incomplete
		}
		if e.ObjectRef == nil {
			continue // discovery, which is allowed for all users
		}
		program, _, _ := strings.Cut(e.UserAgent, "/")
		right := Right{Container: containers[program], Verb: e.Verb, Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource}
		if e.ObjectRef.Subresource != "" {
			right.Resource += "/" + e.ObjectRef.Subresource
		}
		if e.forbidden() {
			if right.Container == "" {
				right.Container = program
			}
			refused[right] = e.RequestURI
			continue
		}
		a.Used[right]++
	}
	a.Refused = refused
	return lines.Err()
}

// granted returns the rights in the roles of the chart.
func (c *Cluster) granted(ctx context.Context) ([]Right, error) {
	mine := metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + Release}
	cluster, err := c.Client.RbacV1().ClusterRoles().List(ctx, mine)
	if err != nil {
		return nil, err
	}
	namespaced, err := c.Client.RbacV1().Roles(metav1.NamespaceAll).List(ctx, mine)
	if err != nil {
		return nil, err
	}
	var out []Right
	for _, role := range cluster.Items {
		out = append(out, rightsOf(strings.TrimPrefix(role.Name, controllerName+"-"), role.Rules)...)
	}
	for _, role := range namespaced.Items {
		out = append(out, rightsOf("", role.Rules)...)
	}
	return out, nil
}

func rightsOf(container string, rules []rbacv1.PolicyRule) []Right {
	var out []Right
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					out = append(out, Right{container, verb, group, resource})
				}
			}
		}
	}
	return out
}
