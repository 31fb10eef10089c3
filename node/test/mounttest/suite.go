package mounttest

import (
	"testing"
)

// Suite tests a nfsmount.Mounter on any volume filesystem.
func Suite(t *testing.T, b Backend) {
	for name, test := range map[string]func(*testing.T, Backend){
		"mount is idempotent":                                            mountIsIdempotent,
		"mount takes an empty directory that a reboot left":              mountOverLeftovers,
		"mount refuses files, links and content":                         mountRefusesHostileDirs,
		"mount refuses a place that another volume has":                  mountConflict,
		"mount that fails leaves nothing":                                mountFailure,
		"mount takes away what is not what was asked for":                mountOfAnother,
		"mount replaces a stale mount":                                   mountReplacesStale,
		"mount finishes the replacement of a caller who has gone":        mountReplacesForNobody,
		"mount keeps a stale mount that it cannot replace":               mountKeepsWhatItCannotReplace,
		"paths may hold blanks, backslashes and other scripts":           oddPaths,
		"paths may lead through links":                                   linkedParents,
		"bind shows the volume, read-write and read-only":                bindShowsTheVolume,
		"bind refuses what is not mounted":                               bindRefusesLocalDisk,
		"bind refuses files, links and content":                          bindRefusesHostileTargets,
		"bind refuses a target that is another mount":                    bindConflict,
		"bind replaces a stale target":                                   bindReplacesStale,
		"unbind and unmount are idempotent and remove empty directories": unmountIsIdempotent,
		"unbind and unmount never delete data":                           unmountSparesData,
		"unbind detaches with a process still inside":                    unbindWhileBusy,
		"unmount detaches with a process still inside":                   unmountWhileBusy,
		"unmount takes mounts that lie on each other":                    unmountStack,
		"others are whole mounts elsewhere":                              others,
		"check and capacity ask the server":                              checkAndCapacity,
		"a silent server hangs no call":                                  silentServer,
		"a silent server is asked once, not again and again":             silentServerIsAskedOnce,
		"a silent server does not stop unmounting":                       silentServerUnmount,
		"a mount on a silent server ends with its deadline":              silentServerMount,
		"group: content first, root last, links not followed":            groupChangesContent,
		"group: nothing is walked when the root matches":                 groupSkipsWhenRootMatches,
		"group: goes on after a deadline":                                groupGoesOn,
		"group: goes on without a call":                                  groupGoesOnByItself,
		"group: the next call gets the error":                            groupTellsItsError,
		"group: another group waits for its turn":                        groupAfterAnother,
		"group: a silent server holds one walk, which unmounting ends":   groupOnSilentServer,
		"group: nothing but a volume is changed":                         groupOfLocalDisk,
	} {
		t.Run(name, func(t *testing.T) { test(t, b) })
	}
}
