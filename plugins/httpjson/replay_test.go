package httpjson

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
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// replay sends the captured requests of a fixture, byte for byte but for the
// path, over one connection, and checks that the client of then would be
// satisfied: a code that it takes for success, no body, and the connection open.
func replay(t *testing.T, s *sink, change func(*Config), path, fixture string) {
	t.Helper()
	srv := httptest.NewServer(mux(newReceiver(t, s, change)))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	files, err := filepath.Glob("testdata/" + fixture + ".req*.bin")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no fixture: %v", fixture, err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		method, rest, _ := bytes.Cut(raw, []byte(" /ingest"))
		if _, err := fmt.Fprintf(conn, "%s %s%s", method, path, rest); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 204 || len(body) > 0 || resp.Close {
			t.Fatalf("%s: %d %q, close %v, %v", file, resp.StatusCode, body, resp.Close, err)
		}
	}
	if s.held != 0 || s.admitted == 0 || len(s.dead) > 0 {
		t.Fatalf("%s: %d bytes admitted, %d still held, dead letters %q", fixture, s.admitted, s.held, s.dead)
	}
	for _, b := range s.batches {
		if !b.KeepRefused || b.Receiver != strings.TrimPrefix(path, "/ingest/") {
			t.Fatalf("%s: %+v", fixture, b)
		}
	}
}

func TestLogstashFixtures(t *testing.T) {
	const (
		msg  = "GET /índex 200 日本 😀"
		meta = ` | bytes=1234 | duration=0.25 | host_name=web-1 | log_file_path=/var/log/app.log | ok=true | tags=["prod","edge"]`
	)
	f := func(name string, timed bool, want ...string) {
		t.Helper()
		s := &sink{}
		replay(t, s, nil, "/ingest/logstash", name)
		if !reflect.DeepEqual(s.entries, want) {
			t.Fatalf("%s:\n got %q\nwant %q", name, s.entries, want)
		}
		if (s.batches[0].ID != push.ID{}) != timed {
			t.Fatalf("%s: push id %x", name, s.batches[0].ID)
		}
	}
	first := `{job="logstash"} 1790000000123456789 ` + msg + meta
	batch := []string{
		first,
		`{job="logstash"} 1790000001500000000 {broken json | host_name=web-1 | tags=["_jsonparsefailure"]`,
		`{job="logstash"} 1790000002000000000 non-ECS event, host is a string | host=legacy-host | type=syslog`,
	}
	f("constructed_logstash_json", true, first)
	f("constructed_logstash_json_batch", true, batch...)
	f("constructed_logstash_json_batch_gzip", true, batch...)
	f("constructed_logstash_message", false, fmt.Sprintf(`{job="logstash"} %d %s`, int64(arrival), msg))
	f("constructed_logstash_form", true, `{job="logstash"} 1790000000123456789 `+msg+
		` | bytes=1234 | duration=0.25 | event={'original': '`+msg+`'} | host={'name': 'web-1'} | log={'file': {'path': '/var/log/app.log'}}`+
		` | nil=None | ok=True | tags=['prod', 'edge']`)
}

// flbEvent is an event as it went into Fluent Bit.
type flbEvent struct {
	TS               int64 `json:"ts_ns"`
	Record, Metadata json.RawMessage
}

func flbEvents(t *testing.T, file string) []flbEvent {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var events []flbEvent
	for dec := json.NewDecoder(bytes.NewReader(raw)); dec.More(); {
		var e flbEvent
		if err := dec.Decode(&e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

var base64Value = regexp.MustCompile(`\{"\$bytes_b64": "([^"]*)"\}`)

// record reads a record. Bytes that are not UTF-8 are what Fluent Bit's JSON
// makes of them, or with raw themselves.
func record(t *testing.T, text []byte, raw bool) *mapping.Record {
	t.Helper()
	if text == nil {
		return nil
	}
	text = base64Value.ReplaceAllFunc(text, func(m []byte) []byte {
		b, err := base64.StdEncoding.DecodeString(string(base64Value.FindSubmatch(m)[1]))
		if err != nil {
			t.Fatal(err)
		}
		if !raw {
			return []byte(`"` + asText(b) + `"`)
		}
		b = bytes.ReplaceAll(b, []byte{0}, []byte(`\u0000`)) // JSON would take it, but for Go
		return append(append([]byte{'"'}, b...), '"')
	})
	var s mapping.Stream
	s.Reset(text, false)
	rec := new(mapping.Record)
	if err := s.Next(rec); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if bin := rec.Field(0, "bin"); raw && bin > 0 {
		rec.Nodes[bin].Kind = mapping.Bytes
	}
	return rec
}

// asText is what Fluent Bit makes of bytes in JSON. (It loses 0xff where 0xfe
// is before it.)
func asText(b []byte) string {
	b = bytes.ReplaceAll(b, []byte("\xfe\xff"), []byte("\xfe"))
	var out strings.Builder
	for i := 0; i < len(b); {
		c, n := rune(b[i]), 1
		if r := []rune(string(b[i:min(len(b), i+4)])); r[0] != 0xfffd {
			c, n = r[0], len(string(r[0]))
		} else {
			c += 0xe000
		}
		if c < 0x20 {
			fmt.Fprintf(&out, `\u%04x`, c)
		} else {
			out.WriteRune(c)
		}
		i += n
	}
	return out.String()
}

func TestFluentBitFixtures(t *testing.T) {
	micros := func(ns int64) int64 { return (ns + 500) / 1000 * 1000 }
	cutTo := func(unit int64) func(int64) int64 { return func(ns int64) int64 { return ns / unit * unit } }
	exact := cutTo(1)
	const tag = "kube.var.log.containers.web-7c9b_default_web-0a1b2c.log"
	type fixture struct {
		name, source, tag, tenant string
		time                      func(int64) int64 // what the format leaves of a time; nil: nothing
		raw                       bool              // it can say bytes
	}
	fixtures := []fixture{
		{name: "flb_http_msgpack", time: exact, raw: true},
		{name: "flb_http_msgpack_gzip", time: exact, raw: true},
		{name: "flb_http_metadata_json", source: "flb_http_metadata_json.events.json", time: micros},
		{name: "flb_http_headers_auth", time: micros, tag: tag, tenant: "tenant-1"},
		{name: "flb_http_json_lines_date_iso", time: cutTo(1e3)},
		{name: "flb_http_json_date_java_sql_timestamp", time: cutTo(1e3)},
		{name: "flb_http_json_date_epoch_ms", time: cutTo(1e6)},
		{name: "flb_http_json_date_epoch", time: cutTo(1e9)},
		{name: "flb_http_json_date_off"},
	}
	for _, name := range []string{
		"204", "bearer", "json", "json_date_double", "json_gzip", "json_lines", "json_stream", "json_zstd", "put",
		"status_400", "status_401", "status_404", "status_408", "status_413", "status_429", "status_500", "status_503",
	} {
		fixtures = append(fixtures, fixture{name: "flb_http_" + name, time: micros})
	}
	for _, c := range fixtures {
		t.Run(c.name, func(t *testing.T) {
			s := &sink{}
			replay(t, s, nil, "/ingest/fluentbit", c.name)
			if c.source == "" {
				c.source = "flb_http.events.json"
			}
			want, m := &sink{}, newReceiver(t, &sink{}, nil).d.Mapper
			st, g := m.Acquire(), new(mapping.Batches)
			now := int64(arrival)
			for i, e := range flbEvents(t, c.source) {
				if c.name == "flb_http_metadata_json" && i == 5 {
					break
				}
				in := mapping.Input{Job: "fluentbit", Tag: []byte(c.tag), Meta: record(t, e.Metadata, c.raw)}
				rec := record(t, e.Record, c.raw)
				switch own := rec.Field(0, "time"); {
				case c.time != nil:
					in.TS = c.time(e.TS)
				case own > 0: // without json_date_key
					in.TS, _ = mapping.NodeTime(rec, own)
					rec.Nodes[own].Used = true
				default:
					in.TS = now
					now++
				}
				st.Add(rec, &in, g)
			}
			if err := want.Push(t.Context(), g.Finish()[0]); err != nil {
				t.Fatal(err)
			}
			requests := len(s.batches)
			if len(want.entries) < 5 || len(s.entries) != requests*len(want.entries) {
				t.Fatalf("%d entries in %d requests, want %d in each", len(s.entries), requests, len(want.entries))
			}
			for i, got := range s.entries {
				if want := want.entries[i%len(want.entries)]; got != want {
					t.Errorf("entry %d:\n got %q\nwant %q", i, got, want)
				}
			}
			for _, b := range s.batches {
				if timed := c.time != nil; b.Tenant != c.tenant || (b.ID != push.ID{}) != timed || b.ID != s.batches[0].ID {
					t.Errorf("tenant %q, push id %x", b.Tenant, b.ID)
				}
			}
		})
	}
}
