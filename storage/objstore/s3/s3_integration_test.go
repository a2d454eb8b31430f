//go:build integration

package s3_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/s3server"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/objstoretest"
	"github.com/loki-go/loki-go/storage/objstore/s3"
)

func config(s *s3server.Server, bucket string) s3.Config {
	c := s3.DefaultConfig()
	c.Endpoint, c.Bucket, c.PathStyle = s.URL, bucket, true
	c.AccessKey, c.SecretKey = s3server.AccessKey, s3server.SecretKey
	return c
}

func open(t *testing.T, c s3.Config) *s3.Bucket {
	t.Helper()
	b, err := s3.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// TestAcceptance runs every store's test against a real S3 service.
func TestAcceptance(t *testing.T) {
	s := s3server.New(t)
	var n atomic.Int32
	objstoretest.AcceptanceTest(t, func(t *testing.T) objstore.Bucket {
		name := fmt.Sprint("bucket-", n.Add(1))
		s.MakeBucket(name)
		return objstore.Resilient(open(t, config(s, name)), objstore.DefaultRetryConfig(), nil)
	})
}

// TestLongList lists more than a page.
func TestLongList(t *testing.T) {
	b := open(t, config(s3server.New(t, "long"), "long"))
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

// TestCheck finds what is wrong with a configuration and says what to mend.
func TestCheck(t *testing.T) {
	s := s3server.New(t, "good")
	for name, x := range map[string]struct {
		change func(*s3.Config)
		want   string
	}{
		"good":         {func(*s3.Config) {}, ""},
		"no bucket":    {func(c *s3.Config) { c.Bucket = "missing" }, "create the bucket missing"},
		"access key":   {func(c *s3.Config) { c.AccessKey = "nobody" }, "access-key"},
		"secret key":   {func(c *s3.Config) { c.SecretKey = "wrong" }, "secret-key"},
		"nobody there": {func(c *s3.Config) { c.Endpoint = "http://127.0.0.1:1" }, "does a service listen at storage.s3.endpoint?"},
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
