package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/test/e2e/cluster"
)

// rare are rights that the scenarios do not use, and why they stay.
var rare = map[cluster.Right]string{}

// checkRights fails when the API server refused something to the chart's service account, or, after all scenarios, when the
// chart gives a right that nothing has used.
func checkRights() error {
	audit, err := running.Audit(context.Background())
	if err != nil {
		return err
	}
	if len(audit.Refused) > 0 {
		return fmt.Errorf("rights that the chart does not give:\n  %s", strings.Join(audit.Refused, "\n  "))
	}
	if !everythingRan() {
		return nil
	}
	var unused []error
	for _, right := range audit.Unused {
		if why, ok := rare[right]; ok {
			fmt.Printf("right not used here: %s (%s)\n", right, why)
			continue
		}
		unused = append(unused, fmt.Errorf("the chart gives a right that nothing uses: %s", right))
	}
	return errors.Join(unused...)
}

func everythingRan() bool {
	return flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""
}
