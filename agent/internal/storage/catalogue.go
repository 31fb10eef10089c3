package storage

import (
	"sync"

	"github.com/google/btree"
)

// catalogue holds one kind of a tenant's things in the order of their names, so that no lookup touches the disk and a page
// costs the page. Items are never changed in place: put replaces.
type catalogue[T any] struct {
	mu    sync.RWMutex
	items *btree.BTreeG[*T]
	name  func(*T) string
}

const btreeDegree = 32

func newCatalogue[T any](name func(*T) string) *catalogue[T] {
	return &catalogue[T]{
		items: btree.NewG(btreeDegree, func(a, b *T) bool { return name(a) < name(b) }),
		name:  name,
	}
}

func newVolumes() *catalogue[Volume] {
	return newCatalogue(func(v *Volume) string { return v.Name })
}

func newSnapshots() *catalogue[Snapshot] {
	return newCatalogue(func(s *Snapshot) string { return s.Name })
}

// get returns the item whose name key has.
func (c *catalogue[T]) get(key T) (T, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	item, found := c.items.Get(&key)
	if !found {
		var zero T
		return zero, false
	}
	return *item, true
}

func (c *catalogue[T]) put(item T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items.ReplaceOrInsert(&item)
}

func (c *catalogue[T]) remove(key T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items.Delete(&key)
}

// all is a copy of the list as it is now.
func (c *catalogue[T]) all() []T {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]T, 0, c.items.Len())
	c.items.Ascend(func(item *T) bool {
		out = append(out, *item)
		return true
	})
	return out
}

// page collects up to limit (0: all) items that match and whose names follow after. With match nil it costs no more than
// the page; else it looks at every item, for the total.
func (c *catalogue[T]) page(after *T, limit int, match func(*T) bool) Page[T] {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if limit == 0 {
		limit = c.items.Len()
	}
	page := Page[T]{Items: make([]T, 0, min(limit, c.items.Len())), Total: c.items.Len()}
	more := false
	collect := func(item *T) bool {
		switch {
		case after != nil && c.name(item) <= c.name(after), match != nil && !match(item):
			return true
		case len(page.Items) == limit:
			more = true
			return false
		}
		page.Items = append(page.Items, *item)
		return true
	}
	if after != nil {
		c.items.AscendGreaterOrEqual(after, collect)
	} else {
		c.items.Ascend(collect)
	}
	if match != nil {
		page.Total = c.count(match)
	}
	if more {
		page.Next = c.name(&page.Items[len(page.Items)-1])
	}
	return page
}

func (c *catalogue[T]) count(match func(*T) bool) int {
	n := 0
	c.items.Ascend(func(item *T) bool {
		if match(item) {
			n++
		}
		return true
	})
	return n
}
