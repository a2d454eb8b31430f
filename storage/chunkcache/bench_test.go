package chunkcache

import (
	"context"
	"fmt"
	"testing"
)

// BenchmarkGet is a hit: over a loopback connection, with the checksum.
func BenchmarkGet(b *testing.B) {
	for _, size := range []int{100 << 10, 1000 << 10} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			key, object := object(1, size)
			reply := fmt.Appendf(nil, "VALUE %s 0 %d\r\n%s\r\nEND\r\n", key, size, object)
			s := startScript(b, nil)
			s.always = reply
			cfg := testConfig(Memcached, s.Addr().String())
			cfg.Timeout *= 100
			c, err := New(cfg, Deps{})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := c.Get(b.Context(), key); !ok {
					b.Fatal("a miss")
				}
			}
		})
	}
}

// sink takes everything at once, and says so.
type sink chan struct{}

func (sink) get(context.Context, string) ([]byte, error) { return nil, errMiss }
func (s sink) set(context.Context, string, []byte) error { s <- struct{}{}; return nil }
func (sink) ping(context.Context) error                  { return nil }
func (sink) close()                                      {}

// BenchmarkPut is what a chunk costs until it is at its server's client.
func BenchmarkPut(b *testing.B) {
	s := make(sink)
	c := newCache(testConfig(Memcached, "a:1", "b:1", "c:1"), Deps{}, func(string) client { return s })
	defer c.Close()
	key, object := object(1, 1000<<10)
	b.SetBytes(int64(len(object)))
	b.ReportAllocs()
	for b.Loop() {
		c.Put(key, object)
		<-s
	}
}

func BenchmarkPlace(b *testing.B) {
	key, _ := object(1, 1)
	name := key.String()
	for _, kind := range []string{Rendezvous, Loki} {
		place := newPlace(kind, addresses(10))
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if place(name) > 10 {
					b.Fatal("no such server")
				}
			}
		})
	}
}
