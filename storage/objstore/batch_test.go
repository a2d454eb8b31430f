package objstore_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage/objstore"
)

func batchBody(n int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("object %d ", n)), 1+n*50) }

// putMany puts n objects from as many goroutines and returns what each Put
// said.
func putMany(t *testing.T, b *objstore.Filesystem, n int) []error {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for k := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[k] = b.Put(t.Context(), fmt.Sprintf("t%d/s%d/o%d", k%3, k%7, k), batchBody(k))
		}()
	}
	wg.Wait()
	return errs
}

// TestBatchSurvivesPowerLoss: objects whose Put returned are there whole after a
// power loss at any moment, and no object is ever there in part.
func TestBatchSurvivesPowerLoss(t *testing.T) {
	for round := range 40 {
		rng := rand.New(rand.NewPCG(uint64(round), 3))
		mem := vfs.NewMem()
		var mu sync.Mutex
		var clone *vfs.Mem
		var before map[int]bool
		done := map[int]bool{}
		at, n := int64(rng.IntN(150)), atomic.Int64{}
		fsys := vfs.Fault(mem, func(vfs.Op, string) error {
			if n.Add(1) == at {
				mu.Lock()
				defer mu.Unlock()
				before = map[int]bool{}
				for k := range done {
					before[k] = true
				}
				clone = mem.CrashClone(rng, vfs.CrashMode(round%2))
			}
			return nil
		})
		b := openBucket(t, fsys, "/objects")
		var wg sync.WaitGroup
		for k := range 24 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := b.Put(t.Context(), fmt.Sprintf("t%d/s%d/o%d", k%3, k%7, k), batchBody(k)); err != nil {
					t.Error(err)
				}
				mu.Lock()
				done[k] = true
				mu.Unlock()
			}()
		}
		wg.Wait()
		if clone == nil {
			continue
		}
		c := openBucket(t, clone, "/objects")
		for k := range 24 {
			got, err := c.Get(t.Context(), fmt.Sprintf("t%d/s%d/o%d", k%3, k%7, k))
			switch {
			case err == nil && !bytes.Equal(got, batchBody(k)):
				t.Fatalf("round %d: object %d is there in part: %d bytes", round, k, len(got))
			case err != nil && (before[k] || !objstore.IsNotFound(err)):
				t.Fatalf("round %d: object %d: %v", round, k, err)
			}
		}
	}
}

// TestBatchFailsTogether: when the sync of a batch fails, every Put in it does.
func TestBatchFailsTogether(t *testing.T) {
	var syncs atomic.Int64
	var fail atomic.Bool
	b := openBucket(t, vfs.Fault(vfs.NewMem(), func(op vfs.Op, _ string) error {
		if op == vfs.OpSyncAll {
			syncs.Add(1)
			if fail.Load() {
				return syscall.EIO
			}
		}
		return nil
	}), "/objects")
	for syncs.Load() == 0 { // until some met
		for k, err := range putMany(t, b, 24) {
			if err != nil {
				t.Fatalf("object %d: %v", k, err)
			}
		}
	}
	fail.Store(true)
	for syncs.Store(0); syncs.Load() == 0; {
		failed := 0
		for k, err := range putMany(t, b, 24) {
			if err != nil {
				failed++
				continue
			}
			if got, err := b.Get(t.Context(), fmt.Sprintf("t%d/s%d/o%d", k%3, k%7, k)); err != nil || !bytes.Equal(got, batchBody(k)) {
				t.Fatalf("object %d: %v", k, err)
			}
		}
		if syncs.Load() > 0 && failed < 4 {
			t.Fatalf("the sync of a batch failed, and %d Puts", failed)
		}
	}
	fail.Store(false)
	for k, err := range putMany(t, b, 24) {
		if err != nil {
			t.Fatalf("object %d after the failure: %v", k, err)
		}
	}
}
