package mapping

import "testing"

func TestEventTime(t *testing.T) {
	f := func(event string, want int64, key string) {
		t.Helper()
		var s Stream
		var rec Record
		s.Reset([]byte(event), false)
		if err := s.Next(&rec); err != nil {
			t.Fatal(err)
		}
		ts, node := EventTime(&rec)
		got := ""
		if node >= 0 {
			got = string(rec.Nodes[node].Key)
		}
		if got != key || got != "" && ts != want {
			t.Errorf("%s: %d from %q, want %d from %q", event, ts, got, want, key)
		}
	}
	f(`{"time":"2026-09-21T14:13:20Z","@timestamp":"2026-09-21T14:13:21.5Z"}`, 1790000001500000000, "@timestamp")
	f(`{"@timestamp":"yesterday","ts":1790000000.25}`, 1790000000250000000, "ts")
	f(`{"time":0.25,"ts":12}`, 0, "")
	f(`{"time":"1970-01-02T00:00:00Z"}`, 86400e9, "time")
	f(`{"a":{"@timestamp":"2026-09-21T14:13:20Z"}}`, 0, "")
	f(`{}`, 0, "")
}

func TestBatchesLast(t *testing.T) {
	m, err := New(DefaultConfig(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	st := m.Acquire()
	defer m.Release(st)
	var g Batches
	for i, c := range []struct {
		tenant, service string
		batch, stream   int
	}{{"a", "x", 0, 0}, {"b", "x", 1, 0}, {"a", "y", 0, 1}, {"b", "x", 1, 0}, {"a", "x", 0, 0}} {
		var s Stream
		var rec Record
		s.Reset([]byte(`{"message":"m","service_name":"`+c.service+`"}`), false)
		if err := s.Next(&rec); err != nil {
			t.Fatal(err)
		}
		if !st.Add(&rec, &Input{Job: "j", Tenant: c.tenant, TS: int64(i + 1)}, &g) {
			t.Fatal("not added")
		}
		if b, s := g.Last(); b != c.batch || s != c.stream {
			t.Errorf("record %d is in batch %d, stream %d, want %d, %d", i, b, s, c.batch, c.stream)
		}
	}
	list := g.Finish()
	if len(list) != 2 || list[0].Tenant != "a" || list[0].Streams[0].Count != 2 || list[0].Entries[1].TS != 5 {
		t.Errorf("the batches are not where Last said: %+v", list[0])
	}
	g.Reset()
}
