package slab

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestNoOverlap fills buffers of random sizes with a pattern of their own and
// checks that no other buffer has written into them.
func TestNoOverlap(t *testing.T) {
	p := New()
	defer p.Close()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			type held struct {
				b Buf
				c byte
			}
			var all []held
			check := func(h held) {
				if want := bytes.Repeat([]byte{h.c}, len(h.b.B)); !bytes.Equal(h.b.B, want) {
					t.Errorf("buffer of %d bytes was overwritten", len(h.b.B))
				}
			}
			for range 2000 {
				if len(all) > 50 || len(all) > 0 && rng.IntN(2) == 0 {
					i := rng.IntN(len(all))
					check(all[i])
					p.Put(all[i].b)
					all[i] = all[len(all)-1]
					all = all[:len(all)-1]
					continue
				}
				n := 1 + rng.IntN(1<<rng.IntN(21))
				b := p.Get(n)
				if cap(b.B) < n {
					t.Errorf("asked for %d bytes, got capacity %d", n, cap(b.B))
				}
				c := byte(rng.Uint32())
				b.B = b.B[:n]
				for i := range b.B {
					b.B[i] = c
				}
				all = append(all, held{b, c})
			}
			for _, h := range all {
				check(h)
				p.Put(h.b)
			}
		}()
	}
	wg.Wait()
	if n := p.InUse(); n != 0 {
		t.Fatalf("%d bytes in use after everything was put back", n)
	}
}

func TestClasses(t *testing.T) {
	for n := 1; n <= 1<<20; n += 1 + n/50 {
		k := classFor(n)
		if classSize(k) < n || k > 0 && classSize(k-1) >= n {
			t.Fatalf("%d bytes: class %d of %d bytes", n, k, classSize(k))
		}
	}
}

func TestLargeAndReturn(t *testing.T) {
	p := New()
	b := p.Get(3 << 20)
	if p.InUse() != 3<<20 || p.Mapped() != 3<<20 {
		t.Fatalf("in use %d, mapped %d", p.InUse(), p.Mapped())
	}
	p.Put(b)
	if p.InUse() != 0 || p.Mapped() != 0 {
		t.Fatalf("after Put: in use %d, mapped %d", p.InUse(), p.Mapped())
	}
	var bufs []Buf
	for range 100 {
		bufs = append(bufs, p.Get(1<<20))
	}
	for _, b := range bufs {
		p.Put(b)
	}
	if got := p.Mapped(); got > (keepArenas+1)<<20 {
		t.Fatalf("%d bytes stay mapped, want at most %d arenas", got, keepArenas+1)
	}
	p.Close()
	if p.Mapped() != 0 {
		t.Fatalf("%d bytes mapped after Close", p.Mapped())
	}
}

func BenchmarkGetPut(b *testing.B) {
	p := New()
	defer p.Close()
	b.ReportAllocs()
	for range b.N {
		p.Put(p.Get(4096))
	}
}
