package remote

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// An answer that goes on is read to its end, however long that takes in all;
// one that stops coming is an error.
func TestStalledAnswer(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 8 {
			io.WriteString(w, "piece ")
			w.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond)
		}
		if r.URL.Path == "/stalls" {
			<-release
		}
	}))
	defer srv.Close()
	defer close(release)
	client := &http.Client{Transport: byProgress{http.DefaultTransport, 300 * time.Millisecond}}
	defer client.CloseIdleConnections()
	get := func(path string) (string, error) {
		resp, err := client.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	var idle closer
	(&http.Client{Transport: ByProgress(&idle)}).CloseIdleConnections()
	if !idle {
		t.Error("idle connections stay open")
	}
	if body, err := get("/"); err != nil || body != strings.Repeat("piece ", 8) {
		t.Fatalf("%q, %v", body, err)
	}
	body, err := get("/stalls")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no byte of the answer") || !strings.HasPrefix(body, "piece ") {
		t.Fatalf("%q, %v", body, err)
	}
}

type closer bool

func (c *closer) CloseIdleConnections()                           { *c = true }
func (c *closer) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("none") }
