package storage

import (
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
	}
}

func newVolumes() *catalogue[Volume] {
	return newCatalogue((*Volume).fields, func(v *Volume) totals {
		return totals{items: 1, size: v.countedSize(), quarantined: oneIf(v.Quarantine != "")}
	})
}

func newSnapshots() *catalogue[Snapshot] {
	return newCatalogue((*Snapshot).fields, func(s *Snapshot) totals {
		return totals{items: 1, quarantined: oneIf(s.Quarantine != "")}
	})
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
		c.total.subtract(c.tally(unpacker(c.fields)(old)))
	}
	c.total.add(c.tally(&item))
}

func (c *catalogue[T]) remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, found := c.items.Delete(keyOf(name))
	if found {
		c.total.subtract(c.tally(unpacker(c.fields)(old)))
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
	if limit == 0 {
		limit = c.items.Len()
	}
	page := Page[T]{Items: make([]T, 0, min(limit, c.items.Len()))}
	unpack, last, more := unpacker(c.fields), "", false
	collect := func(record string) bool {
		if more = len(page.Items) == limit; more {
			return false
		}
		page.Items, last = append(page.Items, *unpack(record)), nameOf(record)
		return true
	}
	if match == nil {
		page.Total = c.items.Len()
		c.items.AscendGreaterOrEqual(keyOf(after), func(record string) bool { return nameOf(record) == after || collect(record) })
	} else {
		c.items.Ascend(func(record string) bool {
			if match(unpack(record)) {
				page.Total++
				_ = nameOf(record) <= after || collect(record)
			}
			return true
		})
	}
	if more {
		page.Next = last
	}
	return page
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
