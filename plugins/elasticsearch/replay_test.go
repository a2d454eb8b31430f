package elasticsearch

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

// exchange sends the bytes of a request over a socket and returns the answer.
func exchange(t *testing.T, addr string, raw []byte) (*http.Response, []byte) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(raw); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, body
}

// sourceEvent is what Fluent Bit was given.
type sourceEvent struct {
	TS     int64          `json:"ts_ns"`
	Record map[string]any `json:"record"`
}

func sourceEvents(t *testing.T) []sourceEvent {
	t.Helper()
	raw, err := os.ReadFile("testdata/flb_es.events.json")
	if err != nil {
		t.Fatal(err)
	}
	var out []sourceEvent
	for d := json.NewDecoder(bytes.NewReader(raw)); ; {
		d.UseNumber()
		var e sourceEvent
		if err := d.Decode(&e); err == io.EOF {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
}

// flatten notes every value of a record by the names that metadata has.
func flatten(prefix string, v any, out map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		if b64, ok := v["$bytes_b64"].(string); ok {
			raw, _ := base64.StdEncoding.DecodeString(b64)
			out[prefix] = fluentText(raw)
			return
		}
		for k, x := range v {
			name := k
			if prefix != "" {
				name = prefix + "_" + k
			}
			flatten(name, x, out)
		}
	case string:
		out[prefix] = v
	default:
		out[prefix] = fmt.Sprint(v)
	}
}

// fluentText is how Fluent Bit writes bytes as JSON: those that are no UTF-8
// become characters of the private use area, but 0xff behind 0xfe is lost.
func fluentText(raw []byte) string {
	var b strings.Builder
	for len(raw) > 0 {
		if c := raw[0]; c >= 0x80 {
			b.WriteRune(rune(0xe000) + rune(c))
		} else {
			b.WriteByte(c)
		}
		raw = raw[1:]
	}
	return strings.ReplaceAll(b.String(), "\ue0fe\ue0ff", "\ue0fe")
}

func TestFluentBitFixtures(t *testing.T) {
	files, err := filepath.Glob("testdata/flb_es_*.bin")
	if err != nil || len(files) != 7 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	events := sourceEvents(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".bin")
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &sink{}
			srv := httptest.NewServer(mux(newReceiver(t, s, nil)))
			defer srv.Close()
			res, body := exchange(t, srv.Listener.Addr().String(), raw)
			// What makes Fluent Bit take a chunk for delivered.
			if res.StatusCode != 200 || !bytes.Contains(body, []byte(`"errors":false,"items":[`)) {
				t.Fatalf("%d %s", res.StatusCode, body)
			}
			if a := parseAnswer(t, body); len(a.Items) != len(events) {
				t.Fatalf("%d items for %d actions", len(a.Items), len(events))
			}
			checkFluentBit(t, name, events, s)
			if s.held != 0 || s.admitted == 0 {
				t.Errorf("%d bytes admitted, %d still held", s.admitted, s.held)
			}
			if b := s.batches[0]; b.Receiver != "elasticsearch" || !b.KeepRefused || b.ID == (push.ID{}) {
				t.Errorf("batch: %+v", b)
			}
		})
	}
}

// checkFluentBit holds what was stored against what Fluent Bit was given.
func checkFluentBit(t *testing.T, name string, events []sourceEvent, s *sink) {
	t.Helper()
	if len(s.entries) != len(events) {
		t.Fatalf("%d entries for %d events", len(s.entries), len(events))
	}
	index, step := "fluent-bit", int64(1e6)
	switch {
	case strings.Contains(name, "logstash_format"):
		index, step = "logstash-2026.09.21", 1 // time_key_nanos
	case strings.Contains(name, "suppress_type"):
		index = "logs-app-default"
	}
	byTime := map[int64]entry{}
	for _, e := range s.entries {
		byTime[e.ts] = e
	}
	last := int64(0)
	for _, ev := range events {
		ts := ev.TS / step * step
		if step > 1 && ts == last {
			ts++ // the same millisecond, kept apart
		}
		last = ts
		e, ok := byTime[ts]
		if !ok {
			t.Errorf("no entry at %d", ts)
			continue
		}
		if e.meta["_index"] != index {
			t.Errorf("_index %q, want %q", e.meta["_index"], index)
		}
		if strings.Contains(name, "logstash_format") && (e.meta["pipeline"] != "p1" || e.line[0] != '{' && e.meta["flb_key"] == "") {
			t.Errorf("pipeline or tag is missing: %v", e)
		}
		checkFields(t, ev, e)
	}
}

// checkFields holds every field of an event against the entry: it is the line,
// in the line, a label or metadata.
func checkFields(t *testing.T, ev sourceEvent, e entry) {
	t.Helper()
	fields := map[string]string{}
	flatten("", ev.Record, fields)
	if _, ok := ev.Record["int"]; ok {
		var got map[string]any
		d := json.NewDecoder(strings.NewReader(e.line))
		d.UseNumber()
		if err := d.Decode(&got); err != nil {
			t.Fatalf("the line of a record without a line key: %v", err)
		}
		delete(got, "@timestamp")
		delete(got, "flb-key")
		want, _ := json.Marshal(ev.Record)
		have, _ := json.Marshal(got)
		if !bytes.Equal(want, have) {
			t.Errorf("fields\n got %s\nwant %s", have, want)
		}
		return
	}
	for k, v := range fields {
		if k == "log" || k == "message" {
			if e.line != v {
				t.Errorf("line %q, want %q", e.line, v)
			}
			continue
		}
		norm := push.NormaliseName(nil, []byte(k))
		if e.meta[string(norm)] != v && !strings.Contains(e.labels, "="+strconv.Quote(v)) {
			t.Errorf("field %s=%q is neither metadata nor a label in %v", k, v, e)
		}
	}
}

// The same request again is one push, another one is not.
func TestRetryOfFluentBit(t *testing.T) {
	s := &sink{}
	srv := httptest.NewServer(mux(newReceiver(t, s, nil)))
	defer srv.Close()
	var ids []push.ID
	for _, name := range []string{"flb_es_conflict_409.req0", "flb_es_conflict_409.req1", "flb_es_conflict_409.req2", "flb_es_api_key.req0", "flb_es_logstash_format.req0", "flb_es_suppress_type.req0"} {
		raw, err := os.ReadFile("testdata/" + name + ".bin")
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, srv.Listener.Addr().String(), raw)
		ids = append(ids, s.lastID(t))
	}
	if ids[0] == (push.ID{}) || ids[1] != ids[0] || ids[2] != ids[0] {
		t.Errorf("retries have ids %x", ids[:3])
	}
	seen := map[push.ID]bool{}
	for _, id := range ids[2:] {
		seen[id] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d ids for 4 requests", len(seen))
	}
}
