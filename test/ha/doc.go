// Package ha tests the failover of docs/two-hosts.md in three guests: two storage hosts whose disks
// DRBD mirrors, and a machine with two worker nodes. The tests run on the host. They move or cut
// off the service while the nodes use it. The program in the nodes' guest is Main.
package ha
