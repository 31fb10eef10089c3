package kernel

import (
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// clients is what each client may mount.
type clients map[netip.Addr]*clientState

// clientState is the exports of one address. Each address is an auth domain by itself, so that no
// cached entry of one client lets another client in.
type clientState struct {
	addr          netip.Addr
	exports       map[string]published // by path
	paths         map[uuid.UUID]string // by file system ID
	pseudoRoots   map[string]int       // parent directories, and the number of exports below each
	pseudoRootIDs map[uuid.UUID]string
	flavors       map[nfs.Flavors]int // number of exports with these flavors
	pushed        bool                // the kernel has the address, unless its cache was flushed
}

// published is an export and the directory that its path had at the time.
type published struct {
	nfs.Export
	dir    directory
	key    fsid // kind is 0 until statx was called for the directory
	pushed bool // the kernel has this entry, unless its cache was flushed

	// narrowed is the version in which the export became read-only, while earlier writes may still
	// be in progress. Otherwise it is 0.
	narrowed uint64
}

// find calls statx for the directory.
func (p *published) find() error {
	dir, err := statDirectory(p.Path)
	if err == nil {
		p.setDirectory(dir)
	}
	return err
}

func (p *published) setDirectory(dir directory) {
	p.dir, p.key = dir, exportFSID(p.FSID, dir.inode, dir.mountRoot)
}

// same reports whether both exports make the same kernel entries for the same directory.
func (p published) same(other published) bool {
	return p.Export == other.Export && p.dir == other.dir
}

func (c *clientState) domain() string { return c.addr.String() }

// byDomain returns the client of an auth domain.
func (c clients) byDomain(domain string) *clientState {
	addr, err := netip.ParseAddr(domain)
	if err != nil {
		return nil
	}
	return c[addr]
}

// get returns the client, and adds it if necessary.
func (c clients) get(addr netip.Addr) *clientState {
	client := c[addr]
	if client == nil {
		client = &clientState{
			addr:          addr,
			exports:       map[string]published{},
			paths:         map[uuid.UUID]string{},
			pseudoRoots:   map[string]int{},
			pseudoRootIDs: map[uuid.UUID]string{},
			flavors:       map[nfs.Flavors]int{},
		}
		c[addr] = client
	}
	return client
}

// remove deletes a client's export at path. It deletes the client with its last export, because
// another machine may get the address.
func (c clients) remove(addr netip.Addr, path string) {
	client := c[addr]
	if client == nil {
		return
	}
	client.remove(path)
	if len(client.exports) == 0 {
		delete(c, addr)
	}
}

// add stores the export. It returns whether the path was exported before, and the parent
// directories that had no pseudo-root entry, the topmost first.
func (c *clientState) add(export published) (replaced bool, newPseudoRoots []string) {
	old, replaced := c.exports[export.Path]
	if replaced && c.paths[old.FSID] == old.Path {
		delete(c.paths, old.FSID)
	}
	if replaced {
		c.countFlavors(old, -1)
	}
	c.countFlavors(export, 1)
	c.exports[export.Path] = export
	c.paths[export.FSID] = export.Path
	if replaced {
		return true, nil
	}
	for _, dir := range parents(export.Path) {
		if c.pseudoRoots[dir]++; c.pseudoRoots[dir] == 1 {
			c.pseudoRootIDs[pseudoRootID(dir)] = dir
			newPseudoRoots = append(newPseudoRoots, dir)
		}
	}
	return false, newPseudoRoots
}

// remove deletes the export at path, and reports whether there was one.
func (c *clientState) remove(path string) bool {
	old, had := c.exports[path]
	if !had {
		return false
	}
	delete(c.exports, path)
	c.countFlavors(old, -1)
	if c.paths[old.FSID] == path {
		delete(c.paths, old.FSID)
	}
	for _, dir := range parents(path) {
		if c.pseudoRoots[dir]--; c.pseudoRoots[dir] == 0 {
			delete(c.pseudoRoots, dir)
			delete(c.pseudoRootIDs, pseudoRootID(dir))
		}
	}
	return true
}

func (c *clientState) countFlavors(export published, by int) {
	flavors := export.Options.Security
	if c.flavors[flavors] += by; c.flavors[flavors] == 0 {
		delete(c.flavors, flavors)
	}
}

// exported reports whether any client may mount path.
func (c clients) exported(path string) bool {
	for _, client := range c {
		if _, ok := client.exports[path]; ok {
			return true
		}
	}
	return false
}

// security returns the union of the flavors of the client's exports, which the pseudo-root entries
// need. It returns "" if AUTH_SYS is the only flavor.
func (c *clientState) security() nfs.Flavors {
	var names []string
	for flavors := range c.flavors {
		for _, name := range flavors.List() {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	if security := nfs.FlavorsOf(names...); security != "sys" {
		return security
	}
	return ""
}

// parents lists the directories above p, the topmost first.
func parents(p string) []string {
	var pseudoRoots []string
	for dir := path.Dir(p); ; dir = path.Dir(dir) {
		pseudoRoots = append(pseudoRoots, dir)
		if dir == pseudoRootPath || !strings.HasPrefix(dir, "/") {
			break
		}
	}
	slices.Reverse(pseudoRoots)
	return pseudoRoots
}
