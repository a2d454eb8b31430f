package otlp

import (
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

// checkAnswer holds an answer to what every request must be answered with.
func checkAnswer(t *testing.T, s *sink, rc *Receiver, contentType string, body []byte) {
	t.Helper()
	s.got, s.pushes = nil, 0
	s.do = func(b *push.Batch) error {
		if len(b.Entries) == 0 {
			t.Fatal("pushed a batch without entries")
		}
		// What was built must be what the next reader of it decodes.
		again := push.Get()
		defer again.Release()
		if err := again.SetBody(b.Body, b.Codec, 0); err != nil {
			t.Fatal(err)
		}
		if got := plain(again); len(got) != len(b.Entries) {
			t.Fatalf("%d entries, %d when decoded", len(b.Entries), len(got))
		}
		return nil
	}
	w := post(rc, contentType, body)
	switch w.Code {
	case 200:
		if refused, _ := partialOf(t, contentType, w.Body.Bytes()); refused < 0 {
			t.Fatalf("%d refused", refused)
		}
	case 400, 413, 503:
		if s.pushes != 0 {
			t.Fatalf("%d, but pushed %q", w.Code, s.got)
		}
		statusOf(t, w)
	default:
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if s.held != 0 {
		t.Fatalf("%d bytes not given back", s.held)
	}
}

func fuzzLimits(c *Config) { c.MaxRecords, c.MaxValues = 2000, 500 }

func FuzzProto(f *testing.F) {
	for _, raw := range captured(f) {
		f.Add(decompressed(f, raw))
	}
	pb, _ := benchRequest(3)
	f.Add(pb)
	f.Add(protoRequest(one(kvs{{"service.name", kvs{{"a", []any{1.5, nil, true}}}}}, record{Body: nested(101), Attrs: kvs{{"\xff", []byte("\xff")}}})))
	f.Add([]byte("\x0b\x0c\x0a\x00"))
	s := &sink{full: 256 << 20}
	rc := receiverFor(f, s, fuzzLimits)
	f.Fuzz(func(t *testing.T, body []byte) { checkAnswer(t, s, rc, protobuf, body) })
}

func FuzzJSON(f *testing.F) {
	_, js := benchRequest(3)
	f.Add(js)
	f.Add(jsonRequest(one(kvs{{"service.name", kvs{{"a", []any{1.5, nil, true}}}}}, record{Body: nested(101), Attrs: kvs{{"\n", []byte("\xff")}}})))
	f.Add([]byte(`{"resource_logs":[{"scope_logs":[{"log_records":[{"timeUnixNano":"5","severityNumber":"SEVERITY_NUMBER_INFO2","traceId":"AB","body":{"string_value":"\ud83d\ude00"},"attributes":[{"value":{"intValue":"x"},"key":"\u0041"}]}],"scope":{"name":"n"}}],"resource":{"attributes":[null]}}]}`))
	s := &sink{full: 256 << 20}
	rc := receiverFor(f, s, fuzzLimits)
	f.Fuzz(func(t *testing.T, body []byte) { checkAnswer(t, s, rc, jsonType, body) })
}
