package elasticsearch

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

const arrival = 1_800_000_000_000_000_001

// sink keeps what was pushed.
type sink struct {
	mu       sync.Mutex
	entries  []entry
	batches  []push.Batch // without entries
	admitted int64
	held     int64
	admitErr error
	answer   func(b *push.Batch) error
	changed  chan struct{} // gets a value after every push, if there is room
}

// entry is what a document became.
type entry struct {
	tenant, labels, line string
	ts                   int64
	meta                 map[string]string
}

func (e entry) String() string {
	var pairs []string
	for k, v := range e.meta {
		pairs = append(pairs, " | "+k+"="+v)
	}
	slices.Sort(pairs)
	return fmt.Sprintf("%s %d %s%s", e.labels, e.ts, e.line, strings.Join(pairs, ""))
}

func (s *sink) Admit(_ context.Context, n int64) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admitErr != nil {
		return nil, s.admitErr
	}
	s.admitted += n
	s.held += n
	return func() { s.mu.Lock(); s.held -= n; s.mu.Unlock() }, nil
}

func (s *sink) Push(_ context.Context, b *push.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := push.Batch{Tenant: b.Tenant, Receiver: b.Receiver, ID: b.ID, KeepRefused: b.KeepRefused}
	for _, d := range b.Dead {
		d.Raw = slices.Clone(d.Raw)
		kept.Dead = append(kept.Dead, d)
	}
	s.batches = append(s.batches, kept)
	var err error
	if s.answer != nil {
		err = s.answer(b)
	}
	if _, ok := err.(*push.Rejected); err != nil && !ok {
		return err
	}
	for i := range b.Streams {
		st := &b.Streams[i]
		for j := range b.StreamEntries(st) {
			e := &b.StreamEntries(st)[j]
			if st.Reject != push.OK || e.Reject != push.OK {
				continue
			}
			got := entry{tenant: b.Tenant, labels: string(b.Bytes(st.RawLabels)), line: string(b.Bytes(e.Line)), ts: e.TS, meta: map[string]string{}}
			for p := b.Pairs(e); p.Next(); {
				got.meta[string(p.Name)] = string(p.Value)
			}
			s.entries = append(s.entries, got)
		}
	}
	if s.changed != nil {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	return err
}

func (s *sink) texts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, e := range s.entries {
		out = append(out, e.String())
	}
	return out
}

func (s *sink) lastID(t *testing.T) push.ID {
	t.Helper()
	if len(s.batches) == 0 {
		t.Fatal("nothing was pushed")
	}
	return s.batches[len(s.batches)-1].ID
}

func newReceiver(t testing.TB, s Sink, change func(*Config)) *Receiver {
	t.Helper()
	m, err := mapping.New(mapping.DefaultConfig(), mapping.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	r, err := New(Deps{Sink: s, Mapper: m, Now: func() time.Time { return time.Unix(0, arrival) }}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mux(r *Receiver) *http.ServeMux {
	m := http.NewServeMux()
	r.Register(m)
	return m
}

// newRequest has the User-Agent of a client that knows what to do with an item
// that was refused.
func newRequest(method, path, body string, headers ...string) *http.Request {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("User-Agent", "test")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

func do(h http.Handler, req *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec
}

// bulkAnswer is a client's view of an answer.
type bulkAnswer struct {
	Took   *int                  `json:"took"`
	Errors *bool                 `json:"errors"`
	Items  []map[string]itemView `json:"items"`
}

type itemView struct {
	Index  string `json:"_index"`
	ID     string `json:"_id"`
	Result string `json:"result"`
	Status int    `json:"status"`
	Error  *struct{ Type, Reason string }
}

// String is like "create 201", with the type and reason of an error.
func (a bulkAnswer) String() string {
	var out []string
	for _, it := range a.Items {
		for op, v := range it {
			s := fmt.Sprintf("%s %d", op, v.Status)
			if v.Error != nil {
				s += " " + v.Error.Type + ": " + v.Error.Reason
			}
			out = append(out, s)
		}
	}
	return strings.Join(out, "; ")
}

func parseAnswer(t testing.TB, body []byte) bulkAnswer {
	t.Helper()
	var a bulkAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		t.Fatalf("answer is not JSON: %v\n%s", err, body)
	}
	return a
}

// bulk posts a bulk request, which must be answered item by item.
func bulk(t testing.TB, h http.Handler, req *http.Request) bulkAnswer {
	t.Helper()
	rec := do(h, req)
	if rec.Code != http.StatusOK || rec.Header().Get("X-Elastic-Product") != "Elasticsearch" {
		t.Fatalf("%d %v %s", rec.Code, rec.Header(), rec.Body)
	}
	return parseAnswer(t, rec.Body.Bytes())
}

func decode(t testing.TB, rec *httptest.ResponseRecorder, v any) {
	t.Helper()
	if err := json.Unmarshal(rec.Body.Bytes(), v); err != nil {
		t.Fatalf("answer is not JSON: %v\n%s", err, rec.Body)
	}
}
