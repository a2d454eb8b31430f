package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

func testSpec(protocol string) Spec {
	return Spec{Protocol: protocol, Streams: 10, Bytes: 200_000, Batch: 20_000, Conns: 2, Seed: 5, Start: 1_700_000_000_000_000_000}
}

func TestBatchesHoldWhatTheySay(t *testing.T) {
	for _, protocol := range []string{"loki", "forward", "json"} {
		var lines int
		var size int64
		for c := range 2 {
			a, b := testSpec(protocol).Batches(c), testSpec(protocol).Batches(c)
			for i := range a {
				if !bytes.Equal(a[i].Body, b[i].Body) {
					t.Errorf("%s: batch %d differs from one run to the next", protocol, i)
				}
				lines += a[i].Lines
				size += a[i].Bytes
			}
		}
		if size < 200_000 || size > 250_000 || lines < 800 {
			t.Errorf("%s: %d lines of %d bytes", protocol, lines, size)
		}
	}
}

func TestLoadSendsEverything(t *testing.T) {
	var mu sync.Mutex
	streams, lines, refused := map[string]bool{}, map[string]bool{}, false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if !refused { // it must come again
			refused = true
			w.WriteHeader(503)
			return
		}
		b := push.Get()
		defer b.Release()
		if err := b.SetBody(body, push.CodecSnappy, 0); err != nil {
			t.Error(err)
		}
		for i := range b.Streams {
			s := &b.Streams[i]
			streams[string(b.Bytes(s.RawLabels))] = true
			for _, e := range b.StreamEntries(s) {
				lines[string(b.Bytes(e.Line))] = true
			}
		}
		w.WriteHeader(204)
	}))
	defer srv.Close()
	start := make(chan struct{})
	close(start)
	r, err := Load(context.Background(), testSpec("loki"), strings.TrimPrefix(srv.URL, "http://"), func() {}, start)
	if err != nil {
		t.Fatal(err)
	}
	if len(streams) != 10 || r.Retries != 1 || len(lines) < r.Lines*95/100 || r.P50 <= 0 || r.P99 < r.P50 {
		t.Errorf("%d streams, %d different lines, %+v", len(streams), len(lines), r)
	}
}

func TestLoadReportsRefusals(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no such thing", 400) }))
	defer srv.Close()
	start := make(chan struct{})
	close(start)
	_, err := Load(context.Background(), testSpec("json"), strings.TrimPrefix(srv.URL, "http://"), func() {}, start)
	if err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("got %v", err)
	}
}

func TestForwardLoadWaitsForAcks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	batch := testSpec("forward").Batches(0)[0]
	send, closeConn, err := dial("forward", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := func(chunk string) error {
		go func() {
			if _, err := io.ReadFull(c, make([]byte, len(batch.Body))); err != nil {
				t.Error(err)
			}
			if _, err := io.WriteString(c, "\x81\xa3ack\xb8"+chunk); err != nil {
				t.Error(err)
			}
		}()
		return send(context.Background(), batch)
	}
	if err := answer(batch.Chunk); err != nil {
		t.Error(err)
	}
	if err := answer(strings.Repeat("x", len(batch.Chunk))); err == nil {
		t.Error("another chunk's ack was taken")
	}
}

func TestFloorDoesTheWork(t *testing.T) {
	r, err := Floor(testSpec("loki"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if r.Bytes < 200_000 || r.Stored < r.Bytes/30 || r.Stored > r.Bytes/2 || r.Total() <= 0 {
		t.Errorf("%+v", r)
	}
	var back FloorResult
	b, err := json.Marshal(r)
	if err != nil || json.Unmarshal(b, &back) != nil || back != r {
		t.Errorf("result does not survive its way: %s, %v", b, err)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := ReadUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if u.PeakRSS < 1<<20 || u.RSS > u.PeakRSS || u.Syscalls == 0 {
		t.Errorf("%+v", u)
	}
	got, err := parseStat("42 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0")
	if err != nil || got != 3 {
		t.Errorf("stat: %v, %v", got, err)
	}
	if _, err := parseStat("42 (x"); err == nil {
		t.Error("bad stat was read")
	}
}

func TestCounter(t *testing.T) {
	text := "# HELP a_total x\na_total_more 5\na_total 1.25e+06\nb{c=\"d\"} 3\n"
	if got := counter(text, "a_total"); got != 1_250_000 {
		t.Errorf("a_total is %d", got)
	}
	if got := counter(text, "nothing"); got != 0 {
		t.Errorf("nothing is %d", got)
	}
}

func TestClusterResult(t *testing.T) {
	r := ClusterResult{
		Single: Cost{Ingest: 1, Stored: 2}, Gateway: Cost{Ingest: 0.5, Stored: 0.5}, Crowd: Cost{Ingest: 1, Stored: 3.25}, Load: LoadResult{Bytes: 2e9},
		Ingesters: []Cost{{Ingest: 1, Stored: 1}, {Ingest: 1, Stored: 2}, {Ingest: 1, Stored: 3, Merged: 7, Anew: 5, WAL: 6e8, Blocks: 4e8, RSS: 2e8}},
	}
	if r.Total() != 6.5 || r.Factor() != 3.25 || r.GatewayPart() != 0.25 {
		t.Errorf("total %v, factor %v, gateway %v", r.Total(), r.Factor(), r.GatewayPart())
	}
	var out bytes.Buffer
	r.print(&Run{Out: &out})
	for _, want := range []string{"ingester 2            0.50    1.50       7       5   0.300   0.200     200\n", "3 of these at once", "gateway: 0.25 of an ingester", "cluster: 3.25 x the single process, 2.00 x one of 3"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}
