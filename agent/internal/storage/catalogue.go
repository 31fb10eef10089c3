package storage

import (
	"slices"
	"sync"

	"github.com/google/btree"
)

// catalogue holds the volumes or the snapshots of a tenant, sorted by name. No lookup reads the
// disk, and a page costs only its items. An item is never changed, only replaced. Copies share its
// labels and lists.
type catalogue[T any] struct {
	mu    sync.RWMutex
	items *btree.BTreeG[entry[T]]
	name  func(*T) string
	tally func(*T) totals
	total totals

	// groups holds the sorted names of the items of each group. An item can be in several groups.
	groups   map[string][]string
	groupsOf func(*T) []string // nil: in no group
}

type entry[T any] struct {
	name string
	item *T
}

// totals are updated with every change of an item, so that reading them costs no walk.
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

func newCatalogue[T any](name func(*T) string, tally func(*T) totals) *catalogue[T] {
	return &catalogue[T]{
		items:  btree.NewG(btreeDegree, func(a, b entry[T]) bool { return a.name < b.name }),
		name:   name,
		tally:  tally,
		groups: map[string][]string{},
	}
}

func newVolumes() *catalogue[Volume] {
	return newCatalogue(func(v *Volume) string { return v.Name }, func(v *Volume) totals {
		return totals{items: 1, size: countedSize(v), quarantined: oneIf(v.Quarantine != "")}
	})
}

func newSnapshots() *catalogue[Snapshot] {
	c := newCatalogue(func(s *Snapshot) string { return s.Name }, func(s *Snapshot) totals {
		return totals{items: 1, quarantined: oneIf(s.Quarantine != "")}
	})
	c.groupsOf = snapshotGroups
	return c
}

func oneIf(condition bool) int {
	if condition {
		return 1
	}
	return 0
}

func (c *catalogue[T]) get(name string) (item T, found bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, found := c.items.Get(entry[T]{name: name})
	if found {
		item = *e.item
	}
	return item, found
}

func (c *catalogue[T]) put(item T) {
	name := c.name(&item)
	c.mu.Lock()
	defer c.mu.Unlock()
	old, replaced := c.items.ReplaceOrInsert(entry[T]{name, &item})
	if replaced {
		c.forget(old)
	}
	c.total.add(c.tally(&item))
	if c.groupsOf == nil {
		return
	}
	for _, group := range c.groupsOf(&item) {
		at, _ := slices.BinarySearch(c.groups[group], name)
		c.groups[group] = slices.Insert(c.groups[group], at, name)
	}
}

func (c *catalogue[T]) remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, found := c.items.Delete(entry[T]{name: name})
	if found {
		c.forget(old)
	}
}

// forget subtracts an item from the totals and removes it from the groups.
func (c *catalogue[T]) forget(e entry[T]) {
	c.total.subtract(c.tally(e.item))
	if c.groupsOf == nil {
		return
	}
	for _, group := range c.groupsOf(e.item) {
		names := c.groups[group]
		at, found := slices.BinarySearch(names, e.name)
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

// all returns a copy of the current list.
func (c *catalogue[T]) all() []T { return c.page("", 0, nil).Items }

// page collects up to limit (0: all) matching items. If after is not "", it begins behind that
// name. With match nil it costs only the page. Otherwise it checks every item for the total.
func (c *catalogue[T]) page(after string, limit int, match func(*T) bool) Page[T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if match != nil {
		return c.matching(c.items.Ascend, after, limit, match)
	}
	page := newPage(c, limit)
	page.Total = c.items.Len()
	c.items.AscendGreaterOrEqual(entry[T]{name: after}, func(e entry[T]) bool { return e.name == after || page.collect(e) })
	return page.Page
}

// pageOf is page for the items in at least one of the groups. It visits no other items.
func (c *catalogue[T]) pageOf(groups []string, after string, limit int, match func(*T) bool) Page[T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var names []string
	for _, group := range groups {
		names = append(names, c.groups[group]...)
	}
	slices.Sort(names)
	walk := func(visit btree.ItemIteratorG[entry[T]]) {
		for _, name := range slices.Compact(names) {
			e, _ := c.items.Get(entry[T]{name: name})
			visit(e)
		}
	}
	return c.matching(walk, after, limit, match)
}

// matching returns the page of the matching items that walk visits.
func (c *catalogue[T]) matching(walk func(btree.ItemIteratorG[entry[T]]), after string, limit int, match func(*T) bool) Page[T] {
	page := newPage(c, limit)
	walk(func(e entry[T]) bool {
		if !match(e.item) {
			return true
		}
		page.Total++
		if e.name > after {
			page.collect(e)
		}
		return true
	})
	return page.Page
}

// openPage is a page that is being collected.
type openPage[T any] struct {
	Page[T]
	limit int
	last  string // name of the last item
}

func newPage[T any](c *catalogue[T], limit int) *openPage[T] {
	if limit == 0 {
		limit = c.items.Len()
	}
	return &openPage[T]{Page: Page[T]{Items: make([]T, 0, min(limit, c.items.Len()))}, limit: limit}
}

// collect adds an item. If the page is full, it records that there are more and returns false.
func (p *openPage[T]) collect(e entry[T]) bool {
	if len(p.Items) == p.limit {
		p.Next = p.last
		return false
	}
	p.Items, p.last = append(p.Items, *e.item), e.name
	return true
}

// count returns the number of matching items.
func (c *catalogue[T]) count(match func(*T) bool) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := 0
	c.items.Ascend(func(e entry[T]) bool {
		if match(e.item) {
			n++
		}
		return true
	})
	return n
}
