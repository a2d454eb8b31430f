// Package cache has a bounded map for what is cheap to make again.
package cache

import "sync"

// Cache is a bounded map. It has two generations: what is used moves to the
// young one; when that has half of the permitted size, the old one is dropped
// and the young one takes its place. So a hit costs a read lock and no
// bookkeeping, and what was used since the last change of generation stays. It
// is safe for concurrent use.
type Cache[K comparable, V any] struct {
	mu         sync.RWMutex
	young, old map[K]sized[V]
	size       int64 // of young
	oldSize    int64
	half       int64
}

type sized[V any] struct {
	v    V
	size int64
}

// New returns a cache for values whose sizes add up to limit at most.
func New[K comparable, V any](limit int64) *Cache[K, V] {
	return &Cache[K, V]{young: make(map[K]sized[V]), half: limit / 2}
}

// Get returns the value of k.
func (c *Cache[K, V]) Get(k K) (v V, ok bool) {
	c.mu.RLock()
	e, ok := c.young[k]
	if ok {
		c.mu.RUnlock()
		return e.v, true
	}
	e, ok = c.old[k]
	c.mu.RUnlock()
	if ok {
		c.Put(k, e.v, e.size)
	}
	return e.v, ok
}

// Put sets the value of k.
func (c *Cache[K, V]) Put(k K, v V, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(k, v, size)
}

// GetOrPut returns the value of k, or sets it to what make returns.
func (c *Cache[K, V]) GetOrPut(k K, size int64, make func() V) V {
	if v, ok := c.Get(k); ok {
		return v
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.young[k]; ok {
		return e.v
	}
	v := make()
	c.set(k, v, size)
	return v
}

// set must be called under mu.
func (c *Cache[K, V]) set(k K, v V, size int64) {
	c.size += size - c.young[k].size
	c.young[k] = sized[V]{v, size}
	if c.size > c.half {
		c.old, c.oldSize = c.young, c.size
		c.young, c.size = make(map[K]sized[V]), 0
	}
}

// Size returns the sum of the sizes of all values.
func (c *Cache[K, V]) Size() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.size + c.oldSize
}
