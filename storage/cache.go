package storage

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// cache keeps values up to a number of bytes, and lets go of those that were
// not used for longest. A value that is asked for by many at once is loaded
// once.
type cache[V any] struct {
	max int64
	m   cacheMetrics

	mu      sync.Mutex
	size    int64
	entries map[string]*list.Element // of *cached[V]
	order   *list.List               // newest first
	loading map[string]*load[V]
}

type cached[V any] struct {
	key   string
	value V
	size  int64
}

// load is a value that is being loaded; done is closed at the end.
type load[V any] struct {
	done  chan struct{}
	value V
	err   error
}

func newCache[V any](max int64, m cacheMetrics) *cache[V] {
	return &cache[V]{max: max, m: m, entries: map[string]*list.Element{}, order: list.New(), loading: map[string]*load[V]{}}
}

// get returns the value of key, from fetch if need be, which returns its size
// too. A failure is not kept.
func (c *cache[V]) get(ctx context.Context, key string, fetch func() (V, int64, error)) (V, error) {
	for {
		c.mu.Lock()
		if e, ok := c.entries[key]; ok {
			c.order.MoveToFront(e)
			v := e.Value.(*cached[V]).value
			c.mu.Unlock()
			c.m.hits.Inc()
			return v, nil
		}
		l, ok := c.loading[key]
		if !ok {
			l = &load[V]{done: make(chan struct{}), err: errors.New("loading was broken off")}
			c.loading[key] = l
			c.mu.Unlock()
			c.m.misses.Inc()
			return c.load(key, l, fetch)
		}
		c.mu.Unlock()
		select {
		case <-l.done:
		case <-ctx.Done():
			var none V
			return none, context.Cause(ctx)
		}
		if l.err == nil {
			return l.value, nil
		}
		// The other may have failed for reasons of its own, such as its
		// deadline: try for ourselves.
	}
}

func (c *cache[V]) load(key string, l *load[V], fetch func() (V, int64, error)) (V, error) {
	var size int64
	defer func() {
		c.mu.Lock()
		delete(c.loading, key)
		if l.err == nil {
			c.add(key, l.value, size)
		}
		c.mu.Unlock()
		close(l.done)
	}()
	v, size, err := fetch()
	l.value, l.err = v, err
	return v, err
}

// add keeps v. Call with mu held.
func (c *cache[V]) add(key string, v V, size int64) {
	size += int64(len(key)) + 128
	if size > c.max {
		return
	}
	c.size += size
	c.entries[key] = c.order.PushFront(&cached[V]{key, v, size})
	for c.size > c.max {
		e := c.order.Back()
		old := e.Value.(*cached[V])
		c.order.Remove(e)
		delete(c.entries, old.key)
		c.size -= old.size
	}
	c.m.bytes.Set(float64(c.size))
}
