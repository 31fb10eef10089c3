// Package crash cuts the power of a storage host, and kills its agent, in the middle of concurrent
// changes, and then looks whether what was acknowledged is there, whole, and nothing else, and
// whether limits hold: with both export engines and in both quota modes. It also cuts the power
// while clients alone change directories, files and databases over NFS.
//
// The tests run on the host (build tag crash: make crash, make crash-smoke) and boot a guest of the
// lab with a disk that outlives it. In the guest the same program (Main) brings up the storage
// host, the real agent, the NFS server and a node, verifies what the crash before left, and makes
// changes until it is killed. It writes each request to a journal on the host before it sends it,
// and each answer after it has come.
//
// Two tests have a disk of device-mapper in the guest (make crash-replay). One records all writes,
// of which the host makes what a power cut may leave: Recording, Replay and package logwrites. The
// other lets the disk fail: Errors and the other faults.
package crash
