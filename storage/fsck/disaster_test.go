package fsck

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/index"
)

// TestRepairBesideOthers has repairs run beside a compactor and a writer while
// chunks and index files vanish and index files are cut off, in random order. In
// the end every chunk that is there can be read, and nothing is wrong any more.
func TestRepairBesideOthers(t *testing.T) {
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		synctest.Test(t, func(t *testing.T) { repairBesideOthers(t, uint64(round)) })
	}
}

func repairBesideOthers(t *testing.T, seed uint64) {
	s := newSite(t, seed%2 == 1)
	s.codec = chunk.Snappy
	defer func() { s.store.Close() }()
	lazy := slow{s.bucket, 2 * time.Second}
	stop := make(chan struct{})
	over := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	compacted := make(chan struct{})
	go func() {
		defer close(compacted)
		cfg := compactor.DefaultConfig()
		cfg.MinFiles, cfg.DeleteDelay, cfg.MinAge = 2, time.Minute, 0
		c := compactor.New(cfg, compactor.Options{Bucket: lazy, FileKeys: s.fileKeys, Now: time.Now})
		for !over() {
			// Damage is an error to it, and leaves the rest to it.
			_ = c.RunOnce(t.Context())
			time.Sleep(10 * time.Second)
		}
	}()
	harmed := make(chan map[Kind]int)
	go func() {
		done := map[Kind]int{}
		defer func() { harmed <- done }()
		rng := rand.New(rand.NewPCG(seed, 1))
		store := storage.New(lazy, storage.DefaultConfig(), storage.Options{FileKeys: s.fileKeys})
		defer store.Close()
		for range 60 {
			var series []index.Series
			var last chunk.Key
			for range 1 + rng.IntN(3) {
				var one index.Series
				one, last = s.chunk(lazy, "a", fmt.Sprintf(`{app="app-%d"}`, rng.IntN(20)), time.Now().Add(-time.Duration(rng.IntN(12))*time.Hour), 4)
				series = append(series, one)
			}
			harm := rng.IntN(8)
			if harm == 0 {
				done[Unindexed]++
				continue
			}
			if err := store.PutIndex(t.Context(), "a", series); err != nil {
				t.Error(err)
			}
			keys := s.indexKeys()
			victim := keys[rng.IntN(len(keys))]
			switch harm {
			case 1:
				done[MissingChunk]++
				s.lose(last)
			case 2:
				done[DamagedIndex]++
				if b, err := s.bucket.Get(t.Context(), victim); err == nil {
					s.put(victim, b[:len(b)/2])
				}
			case 3:
				s.delete(victim)
			}
			time.Sleep(time.Duration(rng.IntN(40)) * time.Second)
		}
	}()
	var done map[Kind]int
	for i := 0; done == nil; i++ {
		cfg := testConfig()
		cfg.Repair, cfg.Grace, cfg.Quick = true, time.Minute, i%2 == 1
		if i%3 == 2 {
			cfg.MaxMemory = listingBytes * 60
		}
		if _, _, err := s.run(lazy, cfg); err != nil {
			t.Errorf("seed %d, repair %d: %v", seed, i, err)
		}
		select {
		case done = <-harmed:
		case <-time.After(5 * time.Second):
		}
	}
	close(stop)
	<-compacted
	if done[Unindexed] == 0 || done[MissingChunk] == 0 || done[DamagedIndex] == 0 {
		t.Errorf("seed %d: harm: %v", seed, done)
	}
	cfg := testConfig()
	cfg.Repair = true
	for i := 0; ; i++ {
		found, _ := s.check(cfg)
		if found = without(found, true); len(found) == 0 {
			break
		}
		if i == 2 {
			t.Fatalf("seed %d: still wrong: %q", seed, brief(found))
		}
	}
	s.wantAll(fmt.Sprint("seed ", seed))
	// The compactor goes on with what is left.
	c := compactor.New(compactor.DefaultConfig(), compactor.Options{Bucket: s.bucket, FileKeys: s.fileKeys, Now: time.Now})
	for range 4 {
		if err := c.RunOnce(t.Context()); err != nil {
			t.Errorf("seed %d: compactor: %v", seed, err)
		}
		time.Sleep(time.Hour)
	}
	s.wantAll(fmt.Sprint("compacted, seed ", seed))
	if found, _ := s.check(testConfig()); len(without(found, true)) > 0 {
		t.Errorf("seed %d: compacted: %q", seed, brief(found))
	}
}

// lose deletes a chunk and forgets its lines.
func (s *site) lose(k chunk.Key) {
	s.t.Helper()
	object := s.get(s.object(k))
	c, err := chunk.Decode(object)
	if err != nil {
		s.t.Fatal(err)
	}
	s.delete(s.object(k))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range c.Blocks {
		content, err := c.Content(i, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		for it := chunk.Entries(content); it.Next(); {
			line := string(it.Line)
			s.lines[k.Tenant] = slices.DeleteFunc(s.lines[k.Tenant], func(l string) bool { return l == line })
		}
	}
}
