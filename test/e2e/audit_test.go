package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// probes are requests that a sidecar makes to find out what there is. It takes no for an answer.
var probes = map[cluster.Right]string{
	{Container: "snapshotter", Verb: "list", Group: "groupsnapshot.storage.k8s.io", Resource: "volumegroupsnapshotcontents"}: "which version of the group API is served",
}

// rare are rights that the scenarios do not use, and why they stay.
var rare = map[cluster.Right]string{
	{Container: "controller", Verb: "get", Resource: "nodes"}:                                                 "asked for a node that has just joined and has no CSINode of ours yet",
	{Container: "attacher", Verb: "patch", Resource: "events"}:                                                "an event that occurs again is patched",
	{Container: "resizer", Verb: "patch", Resource: "events"}:                                                 "an event that occurs again is patched",
	{Container: "snapshotter", Verb: "patch", Resource: "events"}:                                             "an event that occurs again is patched",
	{Container: "provisioner", Verb: "get", Resource: "nodes"}:                                                "asked for a selected node that has just joined and is not in its list yet",
	{Verb: "delete", Group: "storage.k8s.io", Resource: "csistoragecapacities"}:                               "when a class has gone, some time after; the run may be over then",
	{Container: "provisioner", Verb: "list", Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots"}:   "used by csi-provisioner 6",
	{Container: "provisioner", Verb: "watch", Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots"}:  "used by csi-provisioner 6",
	{Container: "provisioner", Verb: "update", Group: "snapshot.storage.k8s.io", Resource: "volumesnapshots"}: "used by csi-provisioner 6",
}

// checkRights fails when the API server refused something to the chart's service account, or, after all scenarios, when the
// chart gives a right that nothing has used.
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
		if why, ok := rare[right]; ok {
			fmt.Printf("right not used here: %s (%s)\n", right, why)
			continue
		}
		errs = append(errs, fmt.Errorf("the chart gives a right that nothing uses: %s", right))
	}
	return errors.Join(errs...)
}

func everythingRan() bool {
	return flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""
}
