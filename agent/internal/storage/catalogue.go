package storage

import (
	"slices"
	"strings"
	"sync"

	"github.com/google/btree"

	"github.com/btrfs-nfs-csi/btrfs-nfs-csi/agent/internal/packed"
)

// catalogue holds one kind of a tenant's things in the order of their names, so that no lookup touches the disk and a page
// costs the page. They are kept as records and handed out as copies.
type catalogue[T any] struct {
	mu     sync.RWMutex
	items  *btree.BTreeG[string] // records, which begin with the name
	fields func(*T, *record)
	tally  func(*T) totals
	total  totals

	// groups are the names of the items of each group, in order. An item can be in several.
	groups   map[string][]string
	groupsOf func(*T) []string // nil: in none
}

// totals are added up whenever an item changes, so that to ask for them costs no walk.
type totals struct {
	items       int
	size        int64
	quarantined int
}

func (t *totals) add(other totals) {
	t.items += other.items
	t.size += other.size
	t.quarantined += other.quarantined
}

func (t *totals) subtract(other totals) {
	t.items -= other.items
	t.size -= other.size
	t.quarantined -= other.quarantined
}

const btreeDegree = 32

func newCatalogue[T any](fields func(*T, *record), tally func(*T) totals) *catalogue[T] {
	return &catalogue[T]{
		items:  btree.NewG(btreeDegree, func(a, b string) bool { return nameOf(a) < nameOf(b) }),
		fields: fields,
		tally:  tally,
		groups: map[string][]string{},
	}
}

func newVolumes() *catalogue[Volume] {
	return newCatalogue((*Volume).fields, func(v *Volume) totals {
		return totals{items: 1, size: v.countedSize(), quarantined: oneIf(v.Quarantine != "")}
	})
}

func newSnapshots() *catalogue[Snapshot] {
	c := newCatalogue((*Snapshot).fields, func(s *Snapshot) totals {
		return totals{items: 1, quarantined: oneIf(s.Quarantine != "")}
	})
	c.groupsOf = (*Snapshot).groups
	return c
}

func oneIf(condition bool) int {
	if condition {
		return 1
	}
	return 0
}

// nameOf is the name in a record, or in the key of one.
func nameOf(item string) string {
	name, _ := packed.CutText(item)
	return name
}

// keyOf is as much of a record as it takes to find one of that name.
func keyOf(name string) string { return string(packed.AppendText(nil, name)) }

func (c *catalogue[T]) get(name string) (item T, found bool) {
	c.mu.RLock()
	record, found := c.items.Get(keyOf(name))
	c.mu.RUnlock()
	if found {
		item = *unpacker(c.fields)(record)
	}
	return item, found
}

func (c *catalogue[T]) put(item T) {
	record := pack(&item, c.fields)
	c.mu.Lock()
	defer c.mu.Unlock()
	old, replaced := c.items.ReplaceOrInsert(record)
	if replaced {
		c.forget(unpacker(c.fields)(old), nameOf(old))
	}
	c.total.add(c.tally(&item))
	if c.groupsOf == nil {
		return
	}
	name := strings.Clone(nameOf(record)) // alone, it does not keep the record
	for _, group := range c.groupsOf(&item) {
		at, _ := slices.BinarySearch(c.groups[group], name)
		c.groups[group] = slices.Insert(c.groups[group], at, name)
	}
}

func (c *catalogue[T]) remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, found := c.items.Delete(keyOf(name))
	if found {
		c.forget(unpacker(c.fields)(old), name)
	}
}

// forget takes an item out of the totals and the groups.
func (c *catalogue[T]) forget(item *T, name string) {
	c.total.subtract(c.tally(item))
	if c.groupsOf == nil {
		return
	}
	for _, group := range c.groupsOf(item) {
		names := c.groups[group]
		at, found := slices.BinarySearch(names, name)
		if found {
			c.groups[group] = slices.Delete(names, at, at+1)
		}
		if len(c.groups[group]) == 0 {
			delete(c.groups, group)
		}
	}
}

func (c *catalogue[T]) totals() totals {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.total
}

// all is a copy of the list as it is now.
func (c *catalogue[T]) all() []T { return c.page("", 0, nil).Items }

// page collects up to limit (0: all) items that match and whose names follow after, where that is not "". With match nil it
// costs no more than the page; else it looks at every item, for the total.
func (c *catalogue[T]) page(after string, limit int, match func(*T) bool) Page[T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if match != nil {
		return c.matching(c.items.Ascend, after, limit, match)
	}
	page := newPage(c, limit)
	page.Total = c.items.Len()
	c.items.AscendGreaterOrEqual(keyOf(after), func(record string) bool { return nameOf(record) == after || page.collect(record) })
	return page.Page
}

// pageOf is page of the items in at least one of the groups. It looks at no others.
func (c *catalogue[T]) pageOf(groups []string, after string, limit int, match func(*T) bool) Page[T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var names []string
	for _, group := range groups {
		names = append(names, c.groups[group]...)
	}
	slices.Sort(names)
	walk := func(visit btree.ItemIteratorG[string]) {
		for _, name := range slices.Compact(names) {
			record, _ := c.items.Get(keyOf(name))
			visit(record)
		}
	}
	return c.matching(walk, after, limit, match)
}

// matching is the page of the records that walk visits and that match.
func (c *catalogue[T]) matching(walk func(btree.ItemIteratorG[string]), after string, limit int, match func(*T) bool) Page[T] {
	page := newPage(c, limit)
	walk(func(record string) bool {
		if match(page.unpack(record)) {
			page.Total++
			_ = nameOf(record) <= after || page.collect(record)
		}
		return true
	})
	return page.Page
}

// pageOfRecords is a page that is being collected.
type pageOfRecords[T any] struct {
	Page[T]
	limit  int
	unpack func(record string) *T
	last   string // name of the last item
}

func newPage[T any](c *catalogue[T], limit int) *pageOfRecords[T] {
	if limit == 0 {
		limit = c.items.Len()
	}
	return &pageOfRecords[T]{
		Page:  Page[T]{Items: make([]T, 0, min(limit, c.items.Len()))},
		limit: limit, unpack: unpacker(c.fields),
	}
}

// collect adds an item, or notes that there are more than the page holds: false.
func (p *pageOfRecords[T]) collect(record string) bool {
	if len(p.Items) == p.limit {
		p.Next = p.last
		return false
	}
	p.Items, p.last = append(p.Items, *p.unpack(record)), nameOf(record)
	return true
}

// count is how many match.
func (c *catalogue[T]) count(match func(*T) bool) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	unpack, n := unpacker(c.fields), 0
	c.items.Ascend(func(record string) bool {
		if match(unpack(record)) {
			n++
		}
		return true
	})
	return n
}
