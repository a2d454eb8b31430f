package storage

import (
	"context"
	"sync"
	"time"

	"github.com/loki-go/loki-go/storage/objstore"
)

// maxLists bounds how many lists are remembered.
const maxLists = 4096

// lists remembers the lists of tables for a time. What forget was called for is
// listed anew by all that begin later.
type lists struct {
	bucket objstore.Bucket
	ttl    time.Duration
	now    func() time.Time

	mu      sync.Mutex
	changes uint64 // calls of forget: a list that was asked for before is not remembered
	known   map[string]listed
}

type listed struct {
	keys []string
	at   time.Time
}

func newLists(b objstore.Bucket, ttl time.Duration, now func() time.Time) *lists {
	return &lists{bucket: b, ttl: ttl, now: now, known: map[string]listed{}}
}

// list lists a folder. The result must not be changed.
func (l *lists) list(ctx context.Context, dir string) ([]string, error) {
	if l.ttl <= 0 {
		return l.bucket.List(ctx, dir, false)
	}
	at := l.now()
	l.mu.Lock()
	known, ok := l.known[dir]
	changes := l.changes
	l.mu.Unlock()
	if age := at.Sub(known.at); ok && 0 <= age && age < l.ttl {
		return known.keys, nil
	}
	keys, err := l.bucket.List(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if changes == l.changes {
		if len(l.known) >= maxLists {
			clear(l.known)
		}
		l.known[dir] = listed{keys, at}
	}
	return keys, nil
}

// forget drops the lists of a table that a tenant's queries see.
func (l *lists) forget(table, tenant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	delete(l.known, table)
	delete(l.known, tenantDir(table, tenant))
}
