package ingester

import (
	"bytes"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

func testBatch(t testing.TB) *push.Batch {
	t.Helper()
	bl := push.NewBuilder(push.Get())
	a, b := bl.Stream([]byte(`{a="1"}`)), bl.Stream([]byte(`{b="2"}`))
	bl.EntryExact(a, 1, []byte("one"))
	bl.EntryExact(b, 2, []byte("two"))
	bl.EntryExact(a, 3, []byte("three"))
	bl.EntryExact(a, 4, []byte("four"))
	out := bl.Finish()
	out.Tenant = "t1"
	out.ID = push.ID{1, 2, 3}
	return out
}

func TestRecordRoundTrip(t *testing.T) {
	for _, part := range []push.Part{{}, {Gateway: 1 << 63, Number: 300}} {
		recordRoundTrip(t, part)
	}
}

func recordRoundTrip(t *testing.T, part push.Part) {
	b := testBatch(t)
	b.Part = part
	b.Entries[1].Reject = push.TooOld // "three"
	tn := &tenant{id: "t1"}
	sts := []*stream{tn.newStream(7, `{a="1"}`, 0), nil}
	p := appendHeader(nil, b, b.ID, sts, func(*stream) bool { return true })
	p = append(p, b.Body...)
	var r record
	if err := r.decode(p); err != nil {
		t.Fatal(err)
	}
	if r.tenant != "t1" || r.id != b.ID || r.part != part || r.codec != b.Codec || !bytes.Equal(r.body, b.Body) || len(r.streams) != 2 {
		t.Fatalf("record: %+v", r)
	}
	s := r.streams[0]
	if s.ref != 7 || string(s.labels) != `{a="1"}` || s.skips != 1 || r.skips[0] != 1 {
		t.Fatalf("stream 0: %+v, skips %v", s, r.skips)
	}
	if s := r.streams[1]; s.ref != 0 || s.skips != 1 {
		t.Fatalf("stream 1: %+v", s)
	}
	for n := range len(p) - len(b.Body) {
		if err := r.decode(p[:n]); err == nil && n < len(p)-len(b.Body) {
			t.Fatalf("header cut at %d decodes", n)
		}
	}
}

func FuzzRecord(f *testing.F) {
	b := testBatch(f)
	tn := &tenant{id: "t1"}
	sts := []*stream{tn.newStream(7, `{a="1"}`, 0), tn.newStream(8, `{b="2"}`, 0)}
	for _, define := range []bool{true, false} {
		f.Add(append(appendHeader(nil, b, b.ID, sts, func(*stream) bool { return define }), b.Body...))
	}
	b.Part = push.Part{Gateway: 5, Number: 6}
	f.Add(append(appendHeader(nil, b, b.ID, sts, func(*stream) bool { return true }), b.Body...))
	f.Fuzz(func(t *testing.T, p []byte) {
		var r record
		if r.decode(p) != nil {
			return
		}
		b := push.Get()
		defer b.Release()
		_ = b.SetBody(r.body, r.codec, 1<<20)
	})
}
