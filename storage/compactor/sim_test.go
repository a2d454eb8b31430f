package compactor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// sim runs actors over one bucket, one request at a time, in an order that
// follows from a seed.
type sim struct {
	w    *world
	rng  *rand.Rand
	asks chan *ask
	log  []string
}

// ask is an actor that waits to make a request, or says that it has ended.
type ask struct {
	actor int
	op    string // "" at the end, "pause" to let time pass
	key   string
	since time.Time // in the time of the world
	grant chan struct{}
}

// actor is a bucket as one actor sees it.
type actor struct {
	objstore.Bucket
	s  *sim
	id int
}

func (a *actor) wait(op, key string) {
	q := &ask{a.id, op, key, a.s.w.clock(), make(chan struct{})}
	a.s.asks <- q
	if op != "" {
		<-q.grant
	}
}

func (a *actor) Put(ctx context.Context, key string, body []byte) error {
	a.wait("put", key)
	return a.Bucket.Put(ctx, key, body)
}

func (a *actor) Get(ctx context.Context, key string) ([]byte, error) {
	a.wait("get", key)
	return a.Bucket.Get(ctx, key)
}

func (a *actor) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	a.wait("list", prefix)
	return a.Bucket.List(ctx, prefix, recursive)
}

func (a *actor) Delete(ctx context.Context, key string) error {
	a.wait("delete", key)
	return a.Bucket.Delete(ctx, key)
}

// simConfig has delays that are over soon, as compared to the time that a run
// takes.
func simConfig() Config {
	c := testConfig()
	c.MinFiles, c.DeleteDelay, c.RetentionDeleteDelay = 2, 100*time.Second, 100*time.Second
	return c
}

// run lets n actors go on until all have ended. After every change the world
// is checked.
func (s *sim) run(n int) error {
	var waiting []*ask
	for n > 0 || len(waiting) > 0 {
		for len(waiting) < n {
			q := <-s.asks
			if q.op == "" {
				n--
				continue
			}
			waiting = append(waiting, q)
		}
		if len(waiting) == 0 {
			break
		}
		i := s.rng.IntN(len(waiting))
		q := waiting[i]
		waiting = append(waiting[:i], waiting[i+1:]...)
		s.log = append(s.log, fmt.Sprintf("%s %d: %s %s", s.w.clock().Format("15:04:05"), q.actor, q.op, q.key))
		most := simConfig().DeleteDelay * time.Duration(s.rng.IntN(1000))
		switch n := s.rng.IntN(40); {
		case q.op == "pause" && n < 10:
			most /= 50 // 20 × delete-delay
		case q.op == "pause" || n == 0:
			most /= 500
		default:
			most /= 50_000
		}
		// A put takes a third of delete-delay at most: that much a compactor
		// relies on.
		for _, o := range waiting {
			if o.op == "put" {
				most = min(most, max(0, simConfig().DeleteDelay/3-s.w.clock().Sub(o.since)))
			}
		}
		s.w.advance(most)
		close(q.grant)
		if q.op != "put" && q.op != "delete" {
			continue
		}
		// The next request of the actor tells that this one is done.
		next := <-s.asks
		if next.op == "" {
			n--
		} else {
			waiting = append(waiting, next)
		}
		if err := s.w.check(); err != nil {
			return fmt.Errorf("after %s: %w", s.log[len(s.log)-1], err)
		}
	}
	return nil
}

// TestTwoCompactors has two compactors that know nothing of each other, without
// a lease, beside a writer: in whatever order their requests come, nothing
// that is kept is invisible at any time, nothing is listed that is not there,
// and in the end all is as one would have left it.
func TestTwoCompactors(t *testing.T) {
	seeds := 8
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		w := fill(t)
		s := &sim{w: w, rng: rand.New(rand.NewPCG(uint64(seed), 1)), asks: make(chan *ask)}
		const compactors = 2
		for i := range compactors {
			b := &actor{w.bucket, s, i}
			random := rand.New(rand.NewPCG(uint64(seed), uint64(i+2)))
			go func() {
				defer b.wait("", "")
				for range 12 {
					c := w.compactor(b) // as if it had been started again
					c.random, c.cfg = random.Uint32, simConfig()
					if err := c.RunOnce(t.Context()); !onlySlow(err) {
						t.Errorf("seed %d: %v", seed, err)
					}
					b.wait("pause", "")
				}
			}()
		}
		go s.write(&actor{w.bucket, s, compactors})
		if err := s.run(compactors + 1); err != nil {
			for _, l := range s.log[max(0, len(s.log)-200):] {
				t.Log(l)
			}
			t.Fatalf("seed %d: %v", seed, err)
		}
		w.finish()
		w.wantDone(fmt.Sprint("seed ", seed))
	}
}

// onlySlow reports whether nothing else happened than that time has jumped
// while a table was being listed.
func onlySlow(err error) bool {
	all, ok := err.(interface{ Unwrap() []error })
	return err == nil || ok && !slices.ContainsFunc(all.Unwrap(), func(err error) bool { return !errors.Is(err, errSlow) })
}

// write adds old and new chunks, in files of one tenant and of many.
func (s *sim) write(b *actor) {
	defer b.wait("", "")
	for i := range 12 {
		b.wait("pause", "")
		b.wait("put", "chunks") // the rest is one step
		at := dayTime(day).Add(time.Duration(i) * time.Hour)
		if i%2 == 1 {
			at = s.w.clock().Add(-6 * 24 * time.Hour).Add(-23 * time.Hour) // expires soon
		}
		series := []index.Series{s.w.chunk("a", `{app="short"}`, at), s.w.chunk("a", `{app="long"}`, at)}
		if i%3 == 0 {
			s.w.shared(storage.TableOf(at.UnixMilli()), fmt.Sprint("late-", i), map[string][]index.Series{"a": series})
		} else {
			s.w.index("a", series...)
		}
	}
}
