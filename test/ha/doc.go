// Package ha tests the failover of docs/two-hosts.md in three guests: two storage hosts whose disks
// DRBD mirrors, and a machine with two worker nodes. The tests run on the host and move, or cut
// off, what the nodes use meanwhile; the program in the nodes' guest is Main.
package ha
