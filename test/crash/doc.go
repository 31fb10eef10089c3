// Package crash cuts the power of a storage host, and kills its agent, during concurrent changes.
// Then it checks that all acknowledged changes are there and complete, that there is no other data,
// and that limits are enforced. It tests both export engines and both quota modes. It also cuts the
// power while only clients change directories, files and databases over NFS.
//
// The tests run on the host (build tag crash: make crash, make crash-smoke) and boot a guest of the
// lab with a disk that outlives it. In the guest the same program (Main) starts the storage host,
// the real agent, the NFS server and a node. It verifies the state after the previous crash, and
// makes changes until it is killed. It writes each request to a journal on the host before it sends
// it, and each answer after it has arrived.
//
// Two tests use a device-mapper disk in the guest (make crash-replay). One records all writes, from
// which the host computes possible states after a power cut: Recording, Replay and package
// logwrites. The other makes the disk fail: Errors and the other faults.
package crash
