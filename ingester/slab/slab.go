// Package slab hands out byte buffers from memory outside the Go heap.
//
// An ingester's heads are most of its live memory, and they come and go all
// the time. On the heap they would double (the collector lets garbage grow to
// the size of what lives) and would have to be zeroed on every allocation. Here
// they are pieces of 1 MiB arenas that are mapped once: the bytes in use are
// exactly the bytes handed out, which is what a memory budget needs.
//
// A Pool is safe for concurrent use. A Buf belongs to who got it until Put.
package slab

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	minShift  = 9  // 512 B
	maxShift  = 20 // 1 MiB, one arena
	arenaSize = 1 << maxShift
	// Capacities are powers of two and the middles between them, so that on
	// average a sixth of a buffer is unused.
	classes = 2*(maxShift-minShift) + 1
	// keepArenas is how many empty arenas wait for re-use before the memory
	// goes back to the system.
	keepArenas = 64
)

// Buf is a buffer of fixed capacity. B may be re-sliced and appended to up to
// its capacity.
type Buf struct {
	B     []byte
	arena *arena
	slot  uint32
}

// classSize is the capacity of buffers of class k.
func classSize(k int) int {
	size := 1 << (minShift + k/2)
	return size + size/2*(k%2)
}

// classFor is the smallest class whose buffers hold n bytes.
func classFor(n int) int {
	if n <= 1<<minShift {
		return 0
	}
	k := 2 * (bits.Len(uint(n-1)) - minShift)
	if n <= classSize(k-1) {
		k--
	}
	return k
}

// Size returns the capacity of the buffer that Get(n) would return.
func Size(n int) int {
	if n > arenaSize {
		return (n + 4095) &^ 4095
	}
	return classSize(classFor(n))
}

// Pool is a set of arenas.
type Pool struct {
	classes [classes]class
	mu      sync.Mutex
	empty   []*arena
	inUse   atomic.Int64
	mapped  atomic.Int64
}

type class struct {
	mu      sync.Mutex
	partial []*arena // arenas with a free slot
}

// arena is 1 MiB cut into equal slots, or one large mapping of its own.
type arena struct {
	mem   []byte
	class int      // -1: a mapping of its own
	free  []uint16 // free slots, a stack
	used  int
	at    int // index in class.partial, -1 if full
}

// New returns an empty pool.
func New() *Pool { return &Pool{} }

// InUse returns the bytes handed out, counted by capacity.
func (p *Pool) InUse() int64 { return p.inUse.Load() }

// Mapped returns the bytes mapped from the system.
func (p *Pool) Mapped() int64 { return p.mapped.Load() }

// Get returns an empty buffer of capacity n or more.
func (p *Pool) Get(n int) Buf {
	if n > arenaSize {
		n = Size(n)
		a := &arena{mem: p.mmap(n), class: -1}
		p.inUse.Add(int64(n))
		return Buf{B: a.mem[:0:n], arena: a}
	}
	k := classFor(n)
	size := classSize(k)
	c := &p.classes[k]
	c.mu.Lock()
	if len(c.partial) == 0 {
		a := p.takeArena()
		a.class, a.used = k, 0
		a.free = a.free[:0]
		for s := arenaSize/size - 1; s >= 0; s-- {
			a.free = append(a.free, uint16(s))
		}
		a.at = 0
		c.partial = append(c.partial, a)
	}
	a := c.partial[len(c.partial)-1]
	slot := a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	a.used++
	if len(a.free) == 0 {
		c.partial = c.partial[:len(c.partial)-1]
		a.at = -1
	}
	c.mu.Unlock()
	p.inUse.Add(int64(size))
	off := int(slot) * size
	return Buf{B: a.mem[off : off : off+size], arena: a, slot: uint32(slot)}
}

// Put takes b back. Nobody may use its bytes afterwards. Putting the zero Buf
// does nothing.
func (p *Pool) Put(b Buf) {
	a := b.arena
	if a == nil {
		return
	}
	if a.class < 0 {
		p.inUse.Add(-int64(len(a.mem)))
		p.munmap(a.mem)
		return
	}
	p.inUse.Add(-int64(classSize(a.class)))
	c := &p.classes[a.class]
	c.mu.Lock()
	a.free = append(a.free, uint16(b.slot))
	a.used--
	if a.at < 0 {
		a.at = len(c.partial)
		c.partial = append(c.partial, a)
	}
	// An empty arena goes back unless it is the class's only one with room:
	// a class that is in use would fetch it again at once.
	if a.used == 0 && len(c.partial) > 1 {
		last := c.partial[len(c.partial)-1]
		c.partial[a.at] = last
		last.at = a.at
		c.partial = c.partial[:len(c.partial)-1]
		c.mu.Unlock()
		p.giveArena(a)
		return
	}
	c.mu.Unlock()
}

func (p *Pool) takeArena() *arena {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.empty); n > 0 {
		a := p.empty[n-1]
		p.empty = p.empty[:n-1]
		return a
	}
	return &arena{mem: p.mmap(arenaSize)}
}

func (p *Pool) giveArena(a *arena) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.empty) < keepArenas {
		p.empty = append(p.empty, a)
		return
	}
	p.munmap(a.mem)
}

// mmap panics when the system has no memory left, as the heap would. The pages
// are brought in at once: all of an arena is going to be used, and a fault for
// each page costs three times as much (on a virtual machine, 3.8 CPU s/GB against
// 1.2).
func (p *Pool) mmap(n int) []byte {
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		panic(fmt.Sprintf("slab: map %d bytes: %v", n, err))
	}
	p.mapped.Add(int64(n))
	return mem
}

func (p *Pool) munmap(mem []byte) {
	p.mapped.Add(-int64(len(mem)))
	if err := unix.Munmap(mem); err != nil {
		panic(fmt.Sprintf("slab: unmap: %v", err))
	}
}

// Close gives all memory back. No Buf may be used afterwards.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.classes {
		c := &p.classes[i]
		c.mu.Lock()
		for _, a := range c.partial {
			if a.used == 0 {
				p.munmap(a.mem)
			}
		}
		c.partial = nil
		c.mu.Unlock()
	}
	for _, a := range p.empty {
		p.munmap(a.mem)
	}
	p.empty = nil
}
