package testkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/proto/push"
)

var sample = []Stream{
	{[]Pair{{"a", "b\"c"}, {"d", "e"}}, []Entry{{1_700_000_000_000_000_001, "one", nil}, {1_700_000_000_000_000_002, "två", []Pair{{"m", "1"}}}}},
	{[]Pair{{"a", "x"}}, []Entry{{5, "", nil}}},
}

func TestPushBodyIsWhatItSays(t *testing.T) {
	b := push.Get()
	defer b.Release()
	if err := b.SetBody(PushBody(sample), push.CodecSnappy, 0); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range b.Streams {
		s := &b.Streams[i]
		for _, e := range b.StreamEntries(s) {
			meta := ""
			for p := b.Pairs(&e); p.Next(); {
				meta += string(p.Name) + "=" + string(p.Value)
			}
			got = append(got, fmt.Sprintf("%s %d %s %s", b.Bytes(s.RawLabels), e.TS, b.Bytes(e.Line), meta))
		}
	}
	want := []string{
		`{a="b\"c", d="e"} 1700000000000000001 one `, `{a="b\"c", d="e"} 1700000000000000002 två m=1`, `{a="x"} 5  `,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestJSONBodies(t *testing.T) {
	want := `{"streams":[{"stream":{"a":"b\"c","d":"e"},"values":[["1700000000000000001","one"],["1700000000000000002","två",{"m":"1"}]]},{"stream":{"a":"x"},"values":[["5",""]]}]}`
	if got := string(PushJSON(sample)); got != want {
		t.Errorf("got %s", got)
	}
	var events []map[string]string
	if err := json.Unmarshal(EventsJSON(sample), &events); err != nil {
		t.Fatal(err)
	}
	if e := events[1]; len(events) != 3 || e["@timestamp"] != "2023-11-14T22:13:20.000000002Z" || e["message"] != "två" || e["m"] != "1" || e["d"] != "e" {
		t.Errorf("events %v", events)
	}
}

func TestForwardMessage(t *testing.T) {
	got := Forward("t", "c", []Stream{{[]Pair{{"k", "v"}}, []Entry{{1_000_000_002, "l", nil}}}})
	events := "\x92\xd7\x00\x00\x00\x00\x01\x00\x00\x00\x02\xde\x00\x02\xa3log\xa1l\xa1k\xa1v"
	want := "\x93\xa1t\xc6\x00\x00\x00" + string(rune(len(events))) + events + "\x82\xa4size\xce\x00\x00\x00\x01\xa5chunk\xa1c"
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, n := range []int{31, 32, 255, 256, 65535, 65536} {
		if b := msgpackString(nil, strings.Repeat("x", n)); len(b) != n+map[bool]int{true: 1}[n < 32]+map[bool]int{true: 2}[n >= 32 && n < 256]+map[bool]int{true: 3}[n >= 256 && n < 65536]+map[bool]int{true: 5}[n >= 65536] {
			t.Errorf("string of %d takes %d bytes", n, len(b))
		}
	}
}

// store is a server that keeps what it gets, and can be told to misbehave.
type store struct {
	mu      sync.Mutex
	entries []stored
	http    *httptest.Server
}

type stored struct {
	Entry
	labels map[string]string
}

func newStore(t *testing.T) *store {
	s := &store{}
	s.http = httptest.NewServer(http.HandlerFunc(s.query))
	t.Cleanup(s.http.Close)
	return s
}

func (s *store) put(streams []Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range streams {
		for _, e := range st.Entries {
			s.entries = append(s.entries, stored{e, toMap(st.Labels)})
		}
	}
}

func (s *store) query(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	num := func(name string) int64 {
		n, err := strconv.ParseInt(r.FormValue(name), 10, 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	sorted := slices.Clone(s.entries)
	slices.SortStableFunc(sorted, func(a, b stored) int { return int(a.TS - b.TS) })
	result := []any{}
	for _, e := range sorted {
		if e.TS >= num("start") && e.TS < num("end") && len(result) < int(num("limit")) {
			result = append(result, map[string]any{"stream": e.labels, "values": [][]any{{strconv.FormatInt(e.TS, 10), e.Line, map[string]any{"structuredMetadata": toMap(e.Meta)}}}})
		}
	}
	_, _ = w.Write(mustJSON(map[string]any{"status": "success", "data": map[string]any{"resultType": "streams", "result": result}}))
}

func TestQueryAllReadsPageAfterPage(t *testing.T) {
	const page = 100
	s := newStore(t)
	want := Stream{Labels: []Pair{{"a", "b"}}}
	for i := range 2*page + 70 {
		// Groups of equal times, also across the end of a page.
		want.Entries = append(want.Entries, Entry{int64(i / 3), strconv.Itoa(i), []Pair{{"m", "v"}}})
	}
	s.put([]Stream{want})
	c := &Client{Base: s.http.URL, Page: page}
	got, err := c.QueryAll(context.Background(), "{}", 0, 1e9)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, []Stream{want}) {
		t.Errorf("got %d streams, %d entries", len(got), len(got[0].Entries))
	}
	for i := range s.entries {
		s.entries[i].TS = 7
	}
	if _, err := c.QueryAll(context.Background(), "{}", 0, 1e9); err == nil {
		t.Error("entries that cannot be reached gave no error")
	}
}

func TestWorkloadFindsWhatIsWrong(t *testing.T) {
	run := func(name string, send func(s *store, n int, streams []Stream) error, want string) {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			ctx, cancel := context.WithCancel(context.Background())
			n := 0
			w := &Workload{Senders: []Sender{SenderFunc(func(_ context.Context, streams []Stream) error {
				if n++; n == 30 {
					cancel()
				}
				return send(s, n, streams)
			})}}
			if err := w.Run(ctx); err != nil {
				t.Fatal(err)
			}
			found, err := w.Check(context.Background(), &Client{Base: s.http.URL})
			if want == "" && (err != nil || found < 400) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("found %d: %v; want %q", found, err, want)
			}
		})
	}
	broken := errors.New("broken")
	run("all is well", func(s *store, _ int, st []Stream) error { s.put(st); return nil }, "")
	run("failures that are sent again", func(s *store, n int, st []Stream) error {
		if n%5 == 0 {
			return broken
		}
		s.put(st)
		return nil
	}, "")
	run("stored but not acknowledged at the end", func(s *store, n int, st []Stream) error {
		s.put(st)
		if n == 30 {
			return broken
		}
		return nil
	}, "")
	run("lost", func(s *store, n int, st []Stream) error {
		if n != 7 {
			s.put(st)
		}
		return nil
	}, "lost")
	run("twice", func(s *store, n int, st []Stream) error {
		s.put(st)
		if n == 7 {
			s.put(st)
		}
		return nil
	}, "twice")
	run("changed", func(s *store, n int, st []Stream) error {
		if n == 7 {
			st = slices.Clone(st)
			st[0].Entries = slices.Clone(st[0].Entries)
			st[0].Entries[0].TS += 2
		}
		s.put(st)
		return nil
	}, "not at")
	run("invented", func(s *store, n int, st []Stream) error {
		if n == 7 {
			st = slices.Clone(st)
			st[0].Entries = append(slices.Clone(st[0].Entries), Entry{st[0].Entries[0].TS, "x", nil})
		}
		s.put(st)
		return nil
	}, "nobody sent")
	run("in another stream", func(s *store, n int, st []Stream) error {
		if n == 7 {
			st = []Stream{{[]Pair{{"stream", "99"}}, st[0].Entries}}
		}
		s.put(st)
		return nil
	}, "in stream 99")
}

func TestWorkloadStopsAtARefusal(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	w := &Workload{Senders: []Sender{SenderFunc(func(context.Context, []Stream) error { return &StatusError{Status: 400, Body: "bad"} })}}
	if err := w.Run(ctx); err == nil || !strings.Contains(err.Error(), "refused for ever") {
		t.Errorf("got %v", err)
	}
}
