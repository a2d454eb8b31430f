//go:build integration

package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/proto/lokipb"
)

// deaf is a proxy that loses all answers: it passes on what clients send, and
// they hear nothing, not even an end.
func deaf(t *testing.T, target string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			keep(c)
			to, err := net.Dial("tcp", target)
			if err != nil {
				t.Error(err)
				return
			}
			keep(to)
			// Errors end what the test does not need any more.
			wg.Go(func() { _, _ = io.Copy(to, c) })
			wg.Go(func() { _, _ = io.Copy(io.Discard, to) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// sums returns a counter of all servers.
func sums(t *testing.T, servers []*testkit.Server, name string) (list []int) {
	t.Helper()
	for _, s := range servers {
		list = append(list, int(metric(t, s, name)))
	}
	return list
}

const (
	receivedEntries = "loki_go_ingester_received_entries_total"
	repeatedPushes  = "loki_go_ingester_repeated_pushes_total"
)

// TestRetriesAreStoredOnce loses the answers to pushes by every protocol that
// has retries. The client's second attempt, by way of another gateway, and a
// third one after all ingesters were killed must find every replica with the
// entries already: none stores them again. With a fourth ingester pushes are
// divided among replica sets, so that parts have ids of their own.
func TestRetriesAreStoredOnce(t *testing.T) {
	t.Parallel()
	for _, ingesters := range []int{3, 4} {
		t.Run(fmt.Sprintf("%d ingesters", ingesters), func(t *testing.T) { retriesAreStoredOnce(t, ingesters) })
	}
}

// pushes are the requests of TestRetriesAreStoredOnce, each of retryEntries
// entries.
func retryPushes(now time.Time) map[string]func(ctx context.Context, http, forward string) error {
	streams := func(text string) (list []testkit.Stream) {
		for i := range retryEntries {
			list = append(list, testkit.Stream{
				Labels:  []testkit.Pair{{Name: "app", Value: fmt.Sprintf("a%d", i)}, {Name: "job", Value: "retry"}},
				Entries: []testkit.Entry{{TS: now.UnixNano() + int64(i)*2 + 1, Line: text}},
			})
		}
		return list
	}
	client := func(addr string) *testkit.Client {
		// Connections of its own: one that answers got lost on is no use again.
		return &testkit.Client{Base: "http://" + addr, HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	}
	post := func(path, contentType, id string, body func(i int) string) func(ctx context.Context, addr, _ string) error {
		return func(ctx context.Context, addr, _ string) error {
			text := ""
			for i := range retryEntries {
				text += body(i)
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+path, strings.NewReader(text))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", contentType)
			if id != "" {
				req.Header.Set("X-Request-Id", id)
			}
			resp, err := client(addr).HTTP.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode/100 != 2 {
				return fmt.Errorf("status %d", resp.StatusCode)
			}
			return nil
		}
	}
	at := func(i int) string { return now.Add(time.Duration(i) * time.Millisecond).UTC().Format(time.RFC3339Nano) }
	return map[string]func(ctx context.Context, http, forward string) error{
		"loki push": func(ctx context.Context, addr, _ string) error { return client(addr).Push(ctx, streams("protobuf")) },
		"loki push json": func(ctx context.Context, addr, _ string) error {
			return client(addr).PushJSON(ctx, streams("json"))
		},
		"forward": func(ctx context.Context, _, addr string) error {
			f := &testkit.ForwardClient{Addr: addr, Tag: "retry"}
			defer f.Close()
			return f.Send(ctx, f.Batch(uint64(now.UnixNano()), streams("forward")))
		},
		"json with times": post("/ingest/json", "application/json", "", func(i int) string {
			return fmt.Sprintf(`{"time":%q,"message":"timed","app":"a%d"}`+"\n", at(i), i)
		}),
		"json with a request id": post("/ingest/json", "application/json", "request 1", func(i int) string {
			return fmt.Sprintf(`{"message":"untimed","app":"a%d"}`+"\n", i)
		}),
		"elasticsearch": post("/_bulk", "application/x-ndjson", "", func(i int) string {
			return fmt.Sprintf("{\"create\":{\"_index\":\"i\"}}\n{\"@timestamp\":%q,\"message\":\"bulk\",\"app\":\"a%d\"}\n", at(i), i)
		}),
		"otlp": post("/otlp/v1/logs", "application/json", "", func(i int) string {
			records := fmt.Sprintf(`{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"a%d"}}]},"scopeLogs":[{"logRecords":[`+
				`{"timeUnixNano":"%d","body":{"stringValue":"otlp"}}]}]}`, i, now.UnixNano()+int64(i)*2+1)
			switch i {
			case 0:
				return `{"resourceLogs":[` + records + ","
			case retryEntries - 1:
				return records + "]}"
			}
			return records + ","
		}),
	}
}

// retryEntries are so many that of four ingesters each set of three has some.
const retryEntries = 24

func retriesAreStoredOnce(t *testing.T, ingesters int) {
	// Nothing may be flushed meanwhile: a restart has to find the ids in the WAL.
	c := newCluster(t, ingesters, "-ingester.chunk-idle-period=1h", "-mapping.label-keys=app")
	a, b := c.gateways[0], c.gateways[1]
	httpDeaf, forwardDeaf := deaf(t, a.HTTP), deaf(t, a.Fwd)
	total := func(name string) (n int) {
		for _, v := range sums(t, c.ingesters, name) {
			n += v
		}
		return n
	}
	pushes := retryPushes(time.Now())
	var names []string
	for name := range pushes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		before, repeated := total(receivedEntries), total(repeatedPushes)
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err := pushes[name](short, httpDeaf, forwardDeaf)
		cancel()
		if err == nil {
			t.Fatalf("%s: an answer came through", name)
		}
		eventually(t, name+" is stored", func() bool { return total(receivedEntries) == before+3*retryEntries })
		if err := pushes[name](t.Context(), b.HTTP, b.Fwd); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// The answer comes with the second of three replicas; the third follows.
		eventually(t, name+" is found on every replica", func() bool { return total(repeatedPushes)-repeated >= 3 })
		if got := total(receivedEntries) - before; got != 3*retryEntries {
			t.Errorf("%s: replicas stored %d entries, want %d", name, got, 3*retryEntries)
		}
		if parts := total(repeatedPushes) - repeated; (ingesters == 3) != (parts == 3) {
			t.Errorf("%s: %d parts were found again on %d ingesters", name, parts, ingesters)
		}
	}
	stored := sums(t, c.ingesters, receivedEntries)
	t.Logf("%v entries on the ingesters, %v pushes found again", stored, sums(t, c.ingesters, repeatedPushes))
	if ingesters == 3 && slices.ContainsFunc(stored, func(n int) bool { return n != len(names)*retryEntries }) {
		t.Errorf("ingesters have %v entries, want %d each", stored, len(names)*retryEntries)
	}
	for _, s := range c.ingesters {
		s.Kill()
	}
	for _, s := range c.ingesters {
		s.Start()
	}
	for _, s := range c.ingesters {
		s.WaitReady()
	}
	c.waitActive(ingesters)
	for i, name := range names {
		if err := pushes[name](t.Context(), a.HTTP, a.Fwd); err != nil {
			t.Fatalf("%s after a restart: %v", name, err)
		}
		eventually(t, name+" is found on every replica after a restart", func() bool { return total(repeatedPushes) >= 3*(i+1) })
	}
	if got := total(receivedEntries); got != 0 {
		t.Errorf("after a restart replicas stored %d entries again", got)
	}
}

// TestLokiDistributorsPush: an ingester takes pushes of logproto.Pusher by
// itself, checks them and makes their labels canonical, as a gateway does, and
// does not hand them on.
func TestLokiDistributorsPush(t *testing.T) {
	c := newCluster(t, 3, "-cluster.secret=")
	s := c.ingesters[1]
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	push := func(labels string, ts time.Time) error {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-scope-orgid", "fake")
		req := testkit.PushRequest([]testkit.Stream{{
			Labels: []testkit.Pair{{Name: "job", Value: "distributor"}, {Name: "app", Value: labels}}, Entries: []testkit.Entry{{TS: ts.UnixNano(), Line: "hello"}},
		}})
		var answer []byte
		return conn.Invoke(ctx, "/logproto.Pusher/Push", &req, &answer, grpc.ForceCodec(rawCodec{}))
	}
	now := time.Now()
	for range 2 { // a distributor's own retry
		if err := push("a", now); err != nil {
			t.Fatal(err)
		}
	}
	if err := push("a", now.Add(-24*365*time.Hour)); err == nil {
		t.Error("an entry of last year was taken")
	}
	if got, repeated := sums(t, c.ingesters, receivedEntries), sums(t, c.ingesters, repeatedPushes); !slices.Equal(got, []int{0, 1, 0}) || repeated[1] != 1 {
		t.Errorf("ingesters received %v entries and %v repeated pushes", got, repeated)
	}
	// A querier of Loki finds it where it is, and only there.
	for i, s := range c.ingesters {
		q := dialQuerier(t, "loki-go", s.GRPC)
		found, err := q.entries(t, t.Context(), &lokipb.QueryRequest{
			Selector: `{job="distributor"}`, Start: timestamppb.New(now.Add(-time.Minute)), End: timestamppb.New(now.Add(time.Minute)),
		})
		if err != nil || (len(found) == 1) != (i == 1) {
			t.Errorf("ingester %d has %q, %v", i, found, err)
		}
	}
	got := find(t, c.gateways[0].Client(""), `{job="distributor"}`)
	if len(got) != 1 || testkit.LabelText(got[0].Labels) != `{app="a", job="distributor", service_name="a"}` {
		t.Errorf("got %v", got)
	}
}

// TestPusherNeedsNoSecret: distributors and queriers of Loki cannot show
// cluster.secret, so an ingester that has one does not let them in.
func TestPusherNeedsNoSecret(t *testing.T) {
	c := newCluster(t, 3)
	conn, err := grpc.NewClient(c.ingesters[0].GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req, answer := []byte(nil), []byte(nil)
	err = conn.Invoke(t.Context(), "/logproto.Pusher/Push", &req, &answer, grpc.ForceCodec(rawCodec{}))
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("%v, want Unimplemented", err)
	}
	if _, err := lokipb.NewQuerierClient(conn).Label(t.Context(), &lokipb.LabelRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("querier: %v, want Unimplemented", err)
	}
}
