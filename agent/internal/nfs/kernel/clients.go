package kernel

import (
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/nfs"
)

// clients is what each client may reach.
type clients map[netip.Addr]*client

// client is one address. It is its own domain, so that nothing which is cached
// for it can let another in.
type client struct {
	addr    netip.Addr
	exports map[string]published // by path
	paths   map[uuid.UUID]string // where a file system ID is
	ways    map[string]int       // directories on the way, with how many exports use them
	wayIDs  map[uuid.UUID]string
	flavors map[nfs.Flavors]int // with how many exports allow just these
	told    bool                // the kernel knows the address, as far as is known
}

// published is an export and what its directory was when it was published.
type published struct {
	nfs.Export
	dir  place
	key  fsid // of no kind until somebody has looked at the directory
	told bool // the kernel knows it just so, as far as is known

	// narrowed is the version in which it became read-only, while writes from before may be under
	// way. Else it is 0.
	narrowed uint64
}

// find looks at the directory.
func (p *published) find() error {
	dir, err := inspect(p.Path)
	if err == nil {
		p.setDirectory(dir)
	}
	return err
}

func (p *published) setDirectory(dir place) {
	p.dir, p.key = dir, exportFSID(p.FSID, dir.inode, dir.mountRoot)
}

// same reports whether two would be told to the kernel in the same words, of the same directory.
func (p published) same(other published) bool {
	return p.Export == other.Export && p.dir == other.dir
}

func (c *client) domain() string { return c.addr.String() }

// byDomain finds the client of a domain that the kernel names.
func (c clients) byDomain(domain string) *client {
	addr, err := netip.ParseAddr(domain)
	if err != nil {
		return nil
	}
	return c[addr]
}

// get returns the client, which it makes if need be.
func (c clients) get(addr netip.Addr) *client {
	known := c[addr]
	if known == nil {
		known = &client{
			addr:    addr,
			exports: map[string]published{},
			paths:   map[uuid.UUID]string{},
			ways:    map[string]int{},
			wayIDs:  map[uuid.UUID]string{},
			flavors: map[nfs.Flavors]int{},
		}
		c[addr] = known
	}
	return known
}

// remove forgets a client's export at path, and the client with its last one: addresses come and go, and nobody vouches for one that
// reaches nothing.
func (c clients) remove(addr netip.Addr, path string) {
	known := c[addr]
	if known == nil {
		return
	}
	known.remove(path)
	if len(known.exports) == 0 {
		delete(c, addr)
	}
}

// add remembers the export, and returns whether it replaces one and the
// directories that the client could not walk through before, the top first.
func (c *client) add(export published) (replaced bool, newWays []string) {
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
	for _, way := range waysTo(export.Path) {
		if c.ways[way]++; c.ways[way] == 1 {
			c.wayIDs[pseudoRootID(way)] = way
			newWays = append(newWays, way)
		}
	}
	return false, newWays
}

// remove forgets the export at path, and reports whether there was one.
func (c *client) remove(path string) bool {
	old, had := c.exports[path]
	if !had {
		return false
	}
	delete(c.exports, path)
	c.countFlavors(old, -1)
	if c.paths[old.FSID] == path {
		delete(c.paths, old.FSID)
	}
	for _, way := range waysTo(path) {
		if c.ways[way]--; c.ways[way] == 0 {
			delete(c.ways, way)
			delete(c.wayIDs, pseudoRootID(way))
		}
	}
	return true
}

func (c *client) countFlavors(export published, by int) {
	flavors := export.Options.Security
	if c.flavors[flavors] += by; c.flavors[flavors] == 0 {
		delete(c.flavors, flavors)
	}
}

// exported reports whether any client may reach path.
func (c clients) exported(path string) bool {
	for _, known := range c {
		if _, ok := known.exports[path]; ok {
			return true
		}
	}
	return false
}

// security is all flavours that any of the client's exports allows: what it may
// use on the way. Empty while that is AUTH_SYS alone.
func (c *client) security() nfs.Flavors {
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

// waysTo lists the directories above p, the top first.
func waysTo(p string) []string {
	var ways []string
	for dir := path.Dir(p); ; dir = path.Dir(dir) {
		ways = append(ways, dir)
		if dir == pseudoRootPath || !strings.HasPrefix(dir, "/") {
			break
		}
	}
	slices.Reverse(ways)
	return ways
}
