// Package chunkcache keeps copies of chunk objects in memcached or Redis, so
// that queries need not fetch them from the object store.
//
// # What is stored
//
// The key is a chunk's logical key (chunk.Key.String), the value the object as
// it is in the bucket, without flags and uncompressed. That is what Loki's
// chunk cache has, so Loki and loki-go can use one cache: of one server as it
// is, of several memcached with placement "loki". (Loki takes several Redis
// addresses for a Redis Cluster, here each is a server of its own.) Keys that
// memcached does not take, and objects above the size limit, are skipped.
//
// # Failures
//
// A cache may be lost, slow, or wrong at any time, and only costs time then.
// Reads have a short deadline, and what they return has the checksum of its
// key. Writes are done in the background, from a queue that is bounded in
// bytes for each server; what finds it full is dropped. A server that fails
// several times in a row is left alone: nothing is read from it or written to
// it until it answers to its writer's ping, so no query waits for a dead
// server. Its keys are not given to others meanwhile: a server that comes and
// goes would make them all forget.
//
// # Life cycle
//
// New connects to nothing and starts one writer for each server. Close stops
// them; what is still queued is dropped. A Cache is safe for concurrent use.
package chunkcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/storage/chunk"
)

// Deps is what a Cache needs. All may be nil.
type Deps struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Cache is a cache of chunk objects on any number of servers. One without
// servers, of type none, finds and keeps nothing.
type Cache struct {
	place   place
	servers []*server
	maxItem int
	legal   func(key string) bool
	m       *metrics
	buffers buffers
	wg      sync.WaitGroup
}

// client talks to one server. Calls end with the deadline of their context. It
// retries nothing but what a connection that broke while it was idle has
// spoilt.
type client interface {
	get(ctx context.Context, key string) ([]byte, error) // errMiss: it has none
	set(ctx context.Context, key string, object []byte) error
	ping(ctx context.Context) error
	// close may be called more than once, and beside requests.
	close()
}

var (
	errMiss = errors.New("not found")
	// errTooLarge says that the server is configured for smaller items.
	errTooLarge = errors.New("the object is too large for the server")
	// errRefused says that a server that works did not take an object.
	errRefused = errors.New("refused")
)

// New returns the cache that cfg describes. Errors are about settings and files
// that they name.
func New(cfg Config, d Deps) (*Cache, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("cache: %w", errors.Join(errs...))
	}
	connect, err := cfg.connector()
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return newCache(cfg, d, connect), nil
}

// connector returns what makes the client for an address.
func (c Config) connector() (func(address string) client, error) {
	switch c.Type {
	case Memcached:
		return memcachedConnector(c)
	case Redis:
		return redisConnector(c)
	}
	return nil, nil
}

func newCache(cfg Config, d Deps, connect func(address string) client) *Cache {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cache{maxItem: cfg.maxItem(), legal: func(string) bool { return true }, m: newMetrics(d.Metrics)}
	if cfg.Type == None {
		return c
	}
	if cfg.Type == Memcached {
		c.legal = legalKey
	}
	c.place = newPlace(cfg.Placement, cfg.Addresses)
	for _, a := range cfg.Addresses {
		s := &server{
			address: a, client: connect(a), cfg: cfg, m: c.m, buffers: &c.buffers,
			log:      d.Log.With("component", "chunkcache", "type", cfg.Type, "server", a),
			maxQueue: int64(cfg.QueueSize) / int64(len(cfg.Addresses)),
			queue:    make(chan item, queueLength), failed: make(chan struct{}, 1),
		}
		s.ctx, s.cancel = context.WithCancel(context.Background())
		c.servers = append(c.servers, s)
		c.wg.Go(s.run)
	}
	return c
}

// Close stops writing and closes all connections.
func (c *Cache) Close() {
	for _, s := range c.servers {
		s.cancel()
		s.client.close() // ends what is under way, too
	}
	c.wg.Wait()
	for _, s := range c.servers {
		s.client.close() // what was under way may have left a connection
	}
}

// Get returns the object of a chunk, which the caller owns, if the cache has
// it and returns it in time. It is what was stored: the checksum is right.
func (c *Cache) Get(ctx context.Context, key chunk.Key) (object []byte, ok bool) {
	if len(c.servers) == 0 {
		return nil, false
	}
	name := key.String()
	if !c.legal(name) {
		return nil, false
	}
	object, err := c.servers[c.place(name)].get(ctx, name)
	if err == nil && chunk.Checksum(object) != key.Checksum {
		c.m.corrupt.Inc()
		err = errMiss
	}
	if err != nil {
		c.m.misses.Inc()
		return nil, false
	}
	c.m.hits.Inc()
	c.m.readBytes.Add(float64(len(object)))
	return object, true
}

// Put writes the object of a chunk to the cache, later or never. It does not
// block and does not keep object.
func (c *Cache) Put(key chunk.Key, object []byte) {
	if len(c.servers) == 0 {
		return
	}
	name := key.String()
	switch {
	case !c.legal(name):
		c.m.skipped.WithLabelValues(badKey).Inc()
	case len(object) > c.maxItem:
		c.m.skipped.WithLabelValues(tooLarge).Inc()
	default:
		c.servers[c.place(name)].put(name, object)
	}
}

// buffers holds memory for objects in queues.
type buffers struct{ pool sync.Pool }

func (b *buffers) copy(object []byte) *[]byte {
	p, _ := b.pool.Get().(*[]byte)
	if p == nil {
		p = new([]byte)
	}
	*p = append((*p)[:0], object...)
	return p
}

func (b *buffers) free(p *[]byte) { b.pool.Put(p) }
