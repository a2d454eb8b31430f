// Package objstoretest has the test that every object store must pass.
package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/storage/objstore"
)

// AcceptanceTest runs the test on empty buckets that newBucket makes.
func AcceptanceTest(t *testing.T, newBucket func(t *testing.T) objstore.Bucket) {
	for name, f := range map[string]func(*testing.T, objstore.Bucket){
		"put and get":   putAndGet,
		"not found":     notFound,
		"list":          list,
		"bad keys":      badKeys,
		"cancelled":     cancelled,
		"concurrent":    concurrent,
		"loki's layout": layout,
	} {
		t.Run(name, func(t *testing.T) { f(t, newBucket(t)) })
	}
}

func put(t *testing.T, b objstore.Bucket, key, body string) {
	t.Helper()
	if err := b.Put(t.Context(), key, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, b objstore.Bucket, key, body string) {
	t.Helper()
	got, err := b.Get(t.Context(), key)
	if err != nil || string(got) != body {
		t.Fatalf("%s holds %.100q, want %.100q: %v", key, got, body, err)
	}
	info, err := b.Stat(t.Context(), key)
	if err != nil || info.Size != int64(len(body)) {
		t.Fatalf("%s has %d bytes, want %d: %v", key, info.Size, len(body), err)
	}
	if age := time.Since(info.Modified); age.Abs() > 12*time.Hour {
		t.Fatalf("%s was just put, and is said to be %s old", key, age)
	}
}

func wantList(t *testing.T, b objstore.Bucket, prefix string, recursive bool, keys ...string) {
	t.Helper()
	got, err := b.List(t.Context(), prefix, recursive)
	if err != nil || !slices.Equal(got, keys) {
		t.Fatalf("keys that begin with %q (recursive: %v): %q, want %q: %v", prefix, recursive, got, keys, err)
	}
}

func putAndGet(t *testing.T, b objstore.Bucket) {
	large := strings.Repeat("0123456789abcdef", 1<<18)
	put(t, b, "a/b/c", "one")
	put(t, b, "empty", "")
	put(t, b, "large", large)
	want(t, b, "a/b/c", "one")
	want(t, b, "empty", "")
	want(t, b, "large", large)
	put(t, b, "a/b/c", "another one")
	put(t, b, "a/b/c", "another one")
	want(t, b, "a/b/c", "another one")
	got, err := b.Get(t.Context(), "a/b/c")
	if err != nil {
		t.Fatal(err)
	}
	copy(got, "xxxxx")
	want(t, b, "a/b/c", "another one")
	for range 2 {
		if err := b.Delete(t.Context(), "a/b/c"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Get(t.Context(), "a/b/c"); !objstore.IsNotFound(err) {
		t.Fatalf("deleted object: %v", err)
	}
	put(t, b, "a/b/c", "back again")
	want(t, b, "a/b/c", "back again")
}

func notFound(t *testing.T, b objstore.Bucket) {
	put(t, b, "a/b", "x")
	for _, key := range []string{"none", "a", "a/none", "a/b/c", "none/none"} {
		if _, err := b.Get(t.Context(), key); !objstore.IsNotFound(err) || !strings.Contains(err.Error(), key) {
			t.Fatalf("get %s: %v", key, err)
		}
		if _, err := b.Stat(t.Context(), key); !objstore.IsNotFound(err) || !strings.Contains(err.Error(), key) {
			t.Fatalf("stat %s: %v", key, err)
		}
		if err := b.Delete(t.Context(), key); err != nil {
			t.Fatalf("delete %s: %v", key, err)
		}
	}
	want(t, b, "a/b", "x")
}

func list(t *testing.T, b objstore.Bucket) {
	wantList(t, b, "", true)
	wantList(t, b, "none/", true)
	keys := []string{"a-b", "a.b/x", "a/b/1", "a/b/2", "a/b3", "a0", "b/c"}
	for _, k := range []int{3, 1, 6, 0, 5, 2, 4} {
		put(t, b, keys[k], "x")
	}
	wantList(t, b, "", true, keys...)
	wantList(t, b, "", false, "a-b", "a.b/", "a/", "a0", "b/")
	wantList(t, b, "a", true, keys[:6]...)
	wantList(t, b, "a", false, "a-b", "a.b/", "a/", "a0")
	wantList(t, b, "a/", true, "a/b/1", "a/b/2", "a/b3")
	wantList(t, b, "a/", false, "a/b/", "a/b3")
	wantList(t, b, "a/b", false, "a/b/", "a/b3")
	wantList(t, b, "a/b/", false, "a/b/1", "a/b/2")
	wantList(t, b, "a/b/2", true, "a/b/2")
	wantList(t, b, "a/b/1/", true)
	wantList(t, b, "c", true)
	if err := b.Delete(t.Context(), "a/b/1"); err != nil {
		t.Fatal(err)
	}
	wantList(t, b, "a/b", true, "a/b/2", "a/b3")
}

func badKeys(t *testing.T, b objstore.Bucket) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", "a\x00b", `a\b`, "a\nb", strings.Repeat("x/", 600) + "x",
	} {
		if err := b.Put(t.Context(), key, nil); err == nil {
			t.Fatalf("put %q: no error", key)
		}
		if _, err := b.Get(t.Context(), key); err == nil || objstore.IsNotFound(err) {
			t.Fatalf("get %q: %v", key, err)
		}
		if _, err := b.Stat(t.Context(), key); err == nil || objstore.IsNotFound(err) {
			t.Fatalf("stat %q: %v", key, err)
		}
		if err := b.Delete(t.Context(), key); err == nil {
			t.Fatalf("delete %q: no error", key)
		}
	}
	for _, prefix := range []string{"/", "../", "a/../", "a//", "\x00", "a/\x00"} {
		if _, err := b.List(t.Context(), prefix, true); err == nil {
			t.Fatalf("list %q: no error", prefix)
		}
	}
	wantList(t, b, "", true)
}

func cancelled(t *testing.T, b objstore.Bucket) {
	put(t, b, "a", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	check("put", b.Put(ctx, "b", nil))
	_, err := b.Get(ctx, "a")
	check("get", err)
	_, err = b.Stat(ctx, "a")
	check("stat", err)
	_, err = b.List(ctx, "", true)
	check("list", err)
	check("delete", b.Delete(ctx, "a"))
	wantList(t, b, "", true, "a")
}

// concurrent has writers of one key, of which a reader must never see a part.
func concurrent(t *testing.T, b objstore.Bucket) {
	const writers, rounds = 4, 10
	bodies := make([][]byte, writers)
	for i := range bodies {
		bodies[i] = bytes.Repeat([]byte{byte('a' + i)}, 100_000+i)
	}
	if err := b.Put(t.Context(), "d/same", bodies[0]); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for k := range rounds {
				if err := b.Put(t.Context(), "d/same", bodies[i]); err != nil {
					t.Error(err)
				}
				if err := b.Put(t.Context(), fmt.Sprintf("d/%d/%d", i, k), bodies[i]); err != nil {
					t.Error(err)
				}
				got, err := b.Get(t.Context(), "d/same")
				if err != nil || len(got) < 100_000 || !bytes.Equal(got, bodies[got[0]-'a']) {
					t.Errorf("a mix of %d bytes: %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
	keys, err := b.List(t.Context(), "d/", true)
	if err != nil || len(keys) != 1+writers*rounds {
		t.Fatalf("%d keys, want %d: %v", len(keys), 1+writers*rounds, err)
	}
}

func layout(t *testing.T, b objstore.Bucket) {
	keys := []string{
		"index/index_20778/!-_.*'()/1795413168875076882-compactor-1795305598000-1795305600002-81a44023.tsdb.gz",
		"index/index_20778/1795411377-vm-1795411377396606661.tsdb.gz",
		"t/1372f89b3ccb0f15/1a2008d6c30:1a2008d7402:d455c199",
		"t/1372f89b3ccb0f15/MWEyMDA4ZDZjMzA6MWEyMDA4ZDc0MDI6ZDQ1NWMxOTk=",
	}
	for _, k := range keys {
		put(t, b, k, k)
	}
	for _, k := range keys {
		want(t, b, k, k)
	}
	wantList(t, b, "index/", false, "index/index_20778/")
	wantList(t, b, "index/index_20778/", false, "index/index_20778/!-_.*'()/", keys[1])
	wantList(t, b, "", true, keys...)
}
