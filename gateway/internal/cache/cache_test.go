package cache_test

import (
	"testing"

	"github.com/loki-go/loki-go/gateway/internal/cache"
)

func TestGenerations(t *testing.T) {
	c := cache.New[int, string](10)
	for i := range 4 {
		c.Put(i, "v", 1)
	}
	c.Put(3, "w", 1)
	if c.Size() != 4 {
		t.Fatalf("%d bytes", c.Size())
	}
	for i := 4; i < 100; i++ {
		if v, ok := c.Get(3); !ok || v != "w" {
			t.Fatalf("what is used was dropped at %d", i)
		}
		c.Put(i, "v", 1)
		if c.Size() > 12 {
			t.Fatalf("%d bytes", c.Size())
		}
	}
	if _, ok := c.Get(50); ok {
		t.Fatal("what is not used stays")
	}
	calls := 0
	for range 2 {
		if got := c.GetOrPut(1000, 1, func() string { calls++; return "new" }); got != "new" {
			t.Fatal(got)
		}
	}
	if calls != 1 {
		t.Fatalf("made %d times", calls)
	}
}
