package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// probes are requests that a sidecar makes to discover features. A refusal is a valid answer.
var probes = map[cluster.Right]string{
	{Container: "snapshotter", Verb: "list", Group: "groupsnapshot.storage.k8s.io", Resource: "volumegroupsnapshotcontents"}: "which version of the group API is served",
}

// rare are rights that the scenarios may not use, with the reason for each.
var rare = map[cluster.Right]string{
	{Container: "controller", Verb: "get", Resource: "nodes"}:                   "asked for a node that has just joined and has no CSINode of ours yet",
	{Container: "attacher", Verb: "patch", Resource: "events"}:                  "an event that occurs again is patched",
	{Container: "resizer", Verb: "patch", Resource: "events"}:                   "an event that occurs again is patched",
	{Container: "snapshotter", Verb: "patch", Resource: "events"}:               "an event that occurs again is patched",
	{Container: "provisioner", Verb: "get", Resource: "nodes"}:                  "asked for a selected node that has just joined and is not in its list yet",
	{Verb: "delete", Group: "storage.k8s.io", Resource: "csistoragecapacities"}: "when a class has gone, some time after; the run may be over then",
}

// newer are rights that the chart's sidecars do not use and the newest do.
var newer = map[cluster.Right]string{
	{Container: "provisioner", Verb: "list", Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots"}:   "csi-provisioner 6.1.1 and newer protect the snapshot of which a volume is being made",
	{Container: "provisioner", Verb: "watch", Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots"}:  "csi-provisioner 6.1.1 and newer protect the snapshot of which a volume is being made",
	{Container: "provisioner", Verb: "update", Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots"}: "csi-provisioner 6.1.1 and newer protect the snapshot of which a volume is being made",
}

// checkRights fails if the API server refused a request of the chart's service account. After all
// scenarios, it also fails if the chart grants an unused right.
func checkRights() error {
	audit, err := running.Audit(context.Background())
	if err != nil {
		return err
	}
	var errs []error
	for right, path := range audit.Refused {
		if _, ok := probes[right]; !ok {
			errs = append(errs, fmt.Errorf("the chart does not give a right that is needed: %s (%s)", right, path))
		}
	}
	for _, right := range audit.Lent {
		errs = append(errs, fmt.Errorf("the chart gives a right that is needed to another container only: %s", right))
	}
	if !everythingRan() {
		return errors.Join(errs...)
	}
	for _, right := range audit.Unused {
		why, ok := rare[right]
		if !ok && !*newestSidecars {
			why, ok = newer[right]
		}
		if ok {
			fmt.Printf("right not used here: %s (%s)\n", right, why)
			continue
		}
		errs = append(errs, fmt.Errorf("the chart gives a right that nothing uses: %s", right))
	}
	return errors.Join(append(errs, staleExceptions(audit)...)...)
}

// staleExceptions returns exceptions from the rule that each right is used. An exception is stale
// if the chart does not grant the right, or if the right is used although the exception says it is
// not. A rare right that was used is not stale.
func staleExceptions(audit *cluster.Audit) []error {
	var errs []error
	for _, exceptions := range []map[cluster.Right]string{rare, newer} {
		for right := range exceptions {
			if !slices.Contains(audit.Granted, right) {
				errs = append(errs, fmt.Errorf("an exception for a right that the chart does not give: %s", right))
			}
		}
	}
	for right := range newer {
		if !*newestSidecars && !slices.Contains(audit.Unused, right) {
			errs = append(errs, fmt.Errorf("an exception for a right that these sidecars use: %s", right))
		}
	}
	return errs
}

func everythingRan() bool {
	return flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""
}
