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
	size   func(*T) int64 // nil: sizes are not added up
	total  int64
}

const btreeDegree = 32

func newCatalogue[T any](fields func(*T, *record)) *catalogue[T] {
	return &catalogue[T]{
		items:  btree.NewG(btreeDegree, func(a, b string) bool { return nameOf(a) < nameOf(b) }),
		fields: fields,
	}
}

func newVolumes() *catalogue[Volume] {
	c := newCatalogue((*Volume).fields)
	c.size = (*Volume).countedSize
	return c
}

func newSnapshots() *catalogue[Snapshot] { return newCatalogue((*Snapshot).fields) }

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
	if c.size != nil {
		c.total += c.size(&item) - c.sizeOf(old, replaced)
	}
}

func (c *catalogue[T]) remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, found := c.items.Delete(keyOf(name))
	if c.size != nil {
		c.total -= c.sizeOf(old, found)
	}
}

func (c *catalogue[T]) sizeOf(record string, found bool) int64 {
	if !found {
		return 0
	}
	return c.size(unpacker(c.fields)(record))
}

// totals are the number of items and the sum of their sizes.
func (c *catalogue[T]) totals() (items int, size int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.items.Len(), c.total
}

func (c *catalogue[T]) len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.items.Len()
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
