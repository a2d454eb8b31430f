package httpjson

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// TestUnwrap checks what is taken out of an event: json_date_key, which comes
// first, and what Fluent Bit says of the event.
func TestUnwrap(t *testing.T) {
	now := int64(arrival)
	f := func(event string, ts int64, want string) {
		t.Helper()
		s := &sink{}
		rec := do(mux(newReceiver(t, s, func(c *Config) { c.DateKeys = []string{"when"} })), post("/ingest/fluentbit", event))
		want = fmt.Sprintf(`{job="fluentbit"} %d %s`, ts, want)
		if rec.Code != 204 || len(s.entries) != 1 || s.entries[0] != want {
			t.Fatalf("%s: %d\n got %q\nwant %q", event, rec.Code, s.entries, want)
		}
		if timed := ts != now; (s.batches[0].ID != push.ID{}) != timed {
			t.Fatalf("%s: push id %x", event, s.batches[0].ID)
		}
	}
	const at = 1790000000123457000
	// All formats; without a line key the line is the record, and only that.
	f(`{"date":1790000000.123457,"a":1}`, at, `{"a":1}`)
	f(`{"date":1790000000,"a":1}`, 1790000000e9, `{"a":1}`)
	f(`{"date":1790000000123,"a":1}`, 1790000000123e6, `{"a":1}`)
	f(`{"date":"2026-09-21T14:13:20.123457Z","a":1}`, at, `{"a":1}`)
	f(`{"date":"2026-09-21 14:13:20.123457","a":1}`, at, `{"a":1}`)
	// Other names, known and configured.
	f(`{"@timestamp":1790000000.123457,"log":"m","time":"2001-09-09T01:46:40Z"}`, at, `m | time=2001-09-09T01:46:40Z`)
	f(`{"when":1790000000.123457,"log":"m","date":"2001-09-09T01:46:40Z"}`, at, `m | date=2001-09-09T01:46:40Z`)
	// A record with a date of its own, and one without Fluent Bit's.
	f(`{"date":1790000000.123457,"log":"m","date":1}`, at, `m | date=1`)
	f(`{"log":"m","date":1790000000.123457}`, at, `m`)
	f(`{"log":"m"}`, now, `m`)
	f(`{"date":12.5,"log":"m"}`, now, `m | date=12.5`)
	f(`{"date":{"x":1},"log":"m"}`, now, `m | date_x=1`)
	f(`{"date":"soon","log":"m"}`, now, `m | date=soon`)
	f(`{}`, now, `{}`)
	f(`{"date":1790000000.123457}`, at, `{}`)
	// Metadata.
	const meta = `"__internal__":{"log_metadata":{"seq":7,"nested":{"a":[1,2]}}}`
	f(`{"date":1790000000.123457,`+meta+`,"log":"m","x":{"y":2}}`, at, `m | nested_a=[1,2] | seq=7 | x_y=2`)
	f(`{"date":1790000000.123457,`+meta+`,"x":{"y":[2]},"z":{}}`, at, `{"x":{"y":[2]},"z":{}} | nested_a=[1,2] | seq=7`)
	f(`{`+meta+`,"log":"m"}`, now, `m | nested_a=[1,2] | seq=7`)
	f(`{"date":1790000000.123457,"__internal__":{"log_metadata":{}},"log":"m"}`, at, `m`)
	// What only looks like it.
	f(`{"date":1790000000.123457,"__internal__":{"log_metadata":{"a":1},"b":2},"log":"m"}`, at, `m | _internal_b=2 | _internal_log_metadata_a=1`)
	f(`{"date":1790000000.123457,"__internal__":"x","log":"m"}`, at, `m | __internal__=x`)
	f(`{"date":1790000000.123457,"log":"m",`+meta+`}`, at, `m | _internal_log_metadata_nested_a=[1,2] | _internal_log_metadata_seq=7`)
}

// TestOTLPGroup has a record of OTLP, as JSON and as MessagePack.
func TestOTLPGroup(t *testing.T) {
	id, _ := hex.DecodeString("4bf92f3577b34da6a3ce929d0e0e4736")
	span, _ := hex.DecodeString("00f067aa0ba902b7")
	escape := func(b []byte) string { return asText(b) }
	body := `[{"date":1790000000.5,"__internal__":{"group_attributes":{"resource":{"attributes":{"service.name":"shop"},"schema_url":"u"},` +
		`"scope":{"name":"lib","version":"1"}},"log_metadata":{"otlp":{"severity_number":9,"severity_text":"INFO","attributes":{"k":"v"},` +
		`"trace_id":"` + escape(id) + `","span_id":"` + escape(span) + `"}}},"log":"m"}]`
	s := &sink{}
	if rec := do(mux(newReceiver(t, s, nil)), post("/ingest/fluentbit", body)); rec.Code != 204 || len(s.entries) != 1 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	want := `{job="fluentbit"} 1790000000500000000 m | k=v | resource_schema_url=u | scope_name=lib | scope_version=1 | service_name=shop` +
		` | severity_number=9 | severity_text=INFO | span_id=00f067aa0ba902b7 | trace_id=4bf92f3577b34da6a3ce929d0e0e4736`
	if s.entries[0] != want {
		t.Fatalf("\n got %s\nwant %s", s.entries[0], want)
	}
	// Ids that are text already, and what is none.
	for in, out := range map[string]string{"4bf92f3577b34da6a3ce929d0e0e4736": "4bf92f3577b34da6a3ce929d0e0e4736", "": "", "short": "short", "1234567890123456": "31323334353637383930313233343536"} {
		s := &sink{}
		do(mux(newReceiver(t, s, nil)), post("/ingest/fluentbit", `{"date":1790000000,"__internal__":{"log_metadata":{"otlp":{"trace_id":"`+in+`"}}},"log":"m"}`))
		if len(s.entries) != 1 || !strings.HasSuffix(s.entries[0], " | trace_id="+out) {
			t.Fatalf("trace_id %q: %q", in, s.entries)
		}
	}
}

// TestBehead takes fields out of records and looks at what is left.
func TestBehead(t *testing.T) {
	var s mapping.Stream
	var rec mapping.Record
	for fields, want := range []string{`{"a":1,"b":{"c":[2,{"d":3}]},"e":[],"f":4}`, `{"b":{"c":[2,{"d":3}]},"e":[],"f":4}`, `{"e":[],"f":4}`, `{"f":4}`, `{}`} {
		s.Reset([]byte(`{"a":1,"b":{"c":[2,{"d":3}]},"e":[],"f":4}`), false)
		if err := s.Next(&rec); err != nil {
			t.Fatal(err)
		}
		to := 1
		for range fields {
			to = rec.Next(to)
		}
		behead(&rec, to)
		if got := string(mapping.AppendJSON(nil, &rec, 0)); got != want {
			t.Fatalf("without %d fields: %s, want %s", fields, got, want)
		}
	}
}
