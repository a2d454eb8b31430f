//go:build integration

package gcs_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/gcsserver"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/gcs"
	"github.com/loki-go/loki-go/storage/objstore/objstoretest"
)

func config(s *gcsserver.Server, bucket string) gcs.Config {
	c := gcs.DefaultConfig()
	c.Endpoint, c.Bucket, c.NoAuth = s.URL, bucket, true
	return c
}

func open(t *testing.T, c gcs.Config) *gcs.Bucket {
	t.Helper()
	b, err := gcs.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// TestAcceptance runs every store's test against an emulator.
func TestAcceptance(t *testing.T) {
	s := gcsserver.New(t)
	var n atomic.Int32
	objstoretest.AcceptanceTest(t, func(t *testing.T) objstore.Bucket {
		name := fmt.Sprint("bucket-", n.Add(1))
		s.MakeBucket(name)
		return objstore.Resilient(open(t, config(s, name)), objstore.DefaultRetryConfig(), nil)
	})
}

// TestLongList lists more than a page.
func TestLongList(t *testing.T) {
	b := open(t, config(gcsserver.New(t, "long"), "long"))
	const n = 1005
	for k := range n {
		if err := b.Put(t.Context(), fmt.Sprintf("index/file-%04d", k), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := b.List(t.Context(), "index/", true)
	if err != nil || len(keys) != n || keys[n-1] != "index/file-1004" {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
}

// TestSpoiltUpload changes a byte on the way: the service refuses the object.
func TestSpoiltUpload(t *testing.T) {
	s := gcsserver.New(t, "logs")
	c := config(s, "logs")
	c.Endpoint = testkit.SpoilingProxy(t, s.URL, "a marked body", "a MARKED body")
	b := open(t, c)
	if err := b.Put(t.Context(), "k", []byte("a marked body")); objstore.KindOf(err) != objstore.Transient || !strings.Contains(fmt.Sprint(err), "CRC32C") {
		t.Fatalf("spoilt upload: %v", err)
	}
	if _, err := b.Stat(t.Context(), "k"); !objstore.IsNotFound(err) {
		t.Fatalf("the object is there: %v", err)
	}
	if err := b.Put(t.Context(), "k", []byte("another body")); err != nil {
		t.Fatal(err)
	}
}

// TestCheck finds what is wrong with a configuration and says what to mend.
func TestCheck(t *testing.T) {
	s := gcsserver.New(t, "good")
	for name, x := range map[string]struct {
		change func(*gcs.Config)
		want   string
	}{
		"good":         {func(*gcs.Config) {}, ""},
		"no bucket":    {func(c *gcs.Config) { c.Bucket = "missing" }, "create the bucket missing"},
		"nobody there": {func(c *gcs.Config) { c.Endpoint = "http://127.0.0.1:1" }, "does a service listen at storage.gcs.endpoint?"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(s, "good")
			x.change(&c)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := objstore.Check(ctx, open(t, c), "test")
			if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
				t.Fatalf("got %v, want %q", err, x.want)
			}
		})
	}
}
