package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
)

func options(change func(o *Options)) Options {
	o := Options{Mapping: mapping.DefaultProfiles(), Now: func() time.Time { return time.Unix(1790000000, 5).UTC() }}
	change(&o)
	return o
}

// text runs a test of the text output.
func text(t *testing.T, in, want, wantErr string, change func(o *Options)) {
	t.Helper()
	var out strings.Builder
	err := Run(strings.NewReader(in), &out, options(change))
	if got := out.String(); got != want {
		t.Errorf("%q:\n got %s\nwant %s", in, got, want)
	}
	if got := errText(err); got != wantErr {
		t.Errorf("%q: error %q, want %q", in, got, wantErr)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestText(t *testing.T) {
	text(t, `{"log":"GET / 200","status":200,"kubernetes":{"namespace_name":"prod"}}`+"\n"+`[{"log":" a\nb","bad":"x\u0007"}]`,
		`record 1
  tenant    (that of the connection)
  stream    {job="forward", namespace="prod"}
  time      2026-09-21T14:13:20.000000005Z (now: the record has none)
  line      GET / 200
  metadata  status = 200

record 2
  tenant    (that of the connection)
  stream    {job="forward"}
  time      2026-09-21T14:13:20.000000005Z (now: the record has none)
  line      " a\nb"
  metadata  bad = "x\a"

`, "", func(o *Options) {})
	text(t, `{"log":"x","org":"team-a"}`, `record 1
  tenant    team-a
  stream    {job="forward"}
  time      2026-09-21T14:13:20.000000005Z (now: the record has none)
  line      x
  metadata  org = team-a
            tag = kube.x

`, "", func(o *Options) { o.Mapping.TenantKeys, o.Tag = []string{"org"}, "kube.x" })
}

func TestProblemsSayWhere(t *testing.T) {
	one := `record 1
  tenant    (that of the connection)
  stream    {job="forward"}
  time      2026-09-21T14:13:20.000000005Z (now: the record has none)
  line      x

`
	text(t, "{\"a\" 1}\n {\"log\":\"x\"} 7", "no record at offset 5: not JSON: expected ':' after a key, found '1'\n\n"+
		one+"no record at offset 21: the value here is not an object\n\n",
		"explain: 2 problems in the input, 1 records", func(o *Options) {})
	text(t, `{"log":"x"}{"a":`, one+"no record at offset 16: not JSON: unexpected end of input\n\n",
		"explain: 1 problems in the input, 1 records", func(o *Options) {})
	text(t, `{"a":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`}{"log":"x"}`, "no record at offset 0: not a record: nested deeper than 100 (offset 104)\n\n"+one,
		"explain: 1 problems in the input, 1 records", func(o *Options) {})
	text(t, " \n", "", "explain: no record in the input", func(o *Options) {})
	text(t, "\x81\xa3log\xa1x\xc1", one+"no record at offset 7: msgpack: 0xc1 is not the start of a value\n\n",
		"explain: 1 problems in the input, 1 records", func(o *Options) {})
	text(t, "\x92\x01\x02\x81\xa3log\xa1x\x81\xa3log", "no record at offset 0: not a log event: not_a_map\n\n"+one+
		"no record at offset 10: msgpack: value is cut short\n\n",
		"explain: 2 problems in the input, 1 records", func(o *Options) {})
	text(t, "\x81\xa3log\xa1x\x05\x91\x01\x81\xa3log\xa1x", one+"no record at offset 7: not a log event: not_an_event\n\n"+
		"no record at offset 8: not a log event: not_an_event\n\n"+strings.Replace(one, "record 1", "record 2", 1),
		"explain: 2 problems in the input, 2 records", func(o *Options) {})
	text(t, "{}", "", "explain: line-keys: empty path\nreceiver \"smtp\" is not one of forward, json, logstash, fluentbit, elasticsearch, syslog\nformat \"xml\" is not auto, json or msgpack",
		func(o *Options) { o.Receiver, o.Format, o.Mapping.LineKeys = "smtp", "xml", []string{""} })
}

// The receivers of JSON see the time in the record, each its own way, and have
// their own settings.
func TestReceivers(t *testing.T) {
	f := func(receiver, in string, want explained) {
		t.Helper()
		var out bytes.Buffer
		err := Run(strings.NewReader(in), &out, options(func(o *Options) {
			o.Receiver, o.JSON, o.Tag, o.Tenant = receiver, true, "t.x", "team"
			keys := []string{"level"}
			o.Mapping.Logstash.LabelKeys = &keys
		}))
		var got explained
		if derr := json.Unmarshal(out.Bytes(), &got); err != nil || derr != nil {
			t.Fatalf("%s: %v, %v: %s", receiver, err, derr, out.String())
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", receiver, got, want)
		}
	}
	const at, ns = "2026-09-21T14:13:21.5Z", "1790000001500000000"
	event := `{"@timestamp":"2026-09-21T14:13:21.500Z","@version":"1","message":"m","level":"info","event":{"original":"m"}}`
	f("logstash", event, explained{
		1, "team", `{job="logstash", level="info"}`,
		map[string]string{"job": "logstash", "level": "info"},
		at, ns, false, "m", nil,
		map[string]string{"tag": "t.x"},
	})
	f("json", event, explained{
		1, "team", `{job="json"}`,
		map[string]string{"job": "json"},
		at, ns, false, "m", nil,
		map[string]string{"_version": "1", "event_original": "m", "level": "info", "tag": "t.x"},
	})
	f("elasticsearch", `{"@timestamp":"2026-09-21T14:13:21.500Z","message":"m","log":{"file":"f"}}`, explained{
		1, "team", `{job="elasticsearch"}`,
		map[string]string{"job": "elasticsearch"},
		at, ns, false, "m", nil,
		map[string]string{"log_file": "f", "tag": "t.x"},
	})
	f("fluentbit", `{"date":1790000001.5,"__internal__":{"log_metadata":{"seq":7}},"log":"m"}`, explained{
		1, "team", `{job="fluentbit"}`,
		map[string]string{"job": "fluentbit"},
		at, ns, false, "m", nil,
		map[string]string{"seq": "7", "tag": "t.x"},
	})
	f("forward", `{"date":1790000001.5,"log":"m"}`, explained{
		1, "team", `{job="forward"}`,
		map[string]string{"job": "forward"},
		"2026-09-21T14:13:20.000000005Z", "1790000000000000005", true, "m", nil,
		map[string]string{"date": "1790000001.5", "tag": "t.x"},
	})
	f("syslog", `{"message":"m"}`, explained{
		1, "team", `{job="syslog"}`,
		map[string]string{"job": "syslog"},
		"2026-09-21T14:13:20.000000005Z", "1790000000000000005", true, "m", nil,
		map[string]string{"tag": "t.x"},
	})
	f("json", `{"message":"m"}`, explained{
		1, "team", `{job="json"}`,
		map[string]string{"job": "json"},
		"2026-09-21T14:13:20.000000005Z", "1790000000000000005", true, "m", nil,
		map[string]string{"tag": "t.x"},
	})
	f("forward", "\x92\x92\xce\x6a\xb1\x3b\x81\x81\xa3seq\x07\x81\xa3log\xc4\x02l\xff", explained{
		1, "team", `{job="forward"}`,
		map[string]string{"job": "forward"},
		"2026-09-21T14:13:21Z", "1790000001000000000", false, "l\uFFFD", []byte("l\xff"),
		map[string]string{"seq": "7", "tag": "t.x"},
	})
}

// What an HTTP receiver refuses is said.
func TestReceiverRefuses(t *testing.T) {
	var out strings.Builder
	err := Run(strings.NewReader(`{"message":"m"}`), &out, options(func(o *Options) { o.Receiver, o.JSON, o.Tenant = "json", true, "a\nb" }))
	if err != nil {
		t.Fatal(err) // a tenant that cannot be one is for the gateway to refuse
	}
	h := &httpReceiver{r: &run{o: Options{Receiver: "nowhere"}, p: newPrinter(&out, false)}}
	mapper, err := mapping.New(mapping.DefaultConfig(), mapping.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	h, err = newHTTPReceiver(h.r, mapper)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.take([]byte(`{}`)); !strings.HasPrefix(got, "the receiver answers 404") {
		t.Errorf("got %q", got)
	}
	h.r.o.Receiver = "logstash"
	if got := h.take([]byte(`{"a"`)); got == "" {
		t.Error("no problem with broken JSON")
	}
}

// A chunk as Fluent Bit keeps it, with groups, gives one record for each event.
func TestFluentBitChunk(t *testing.T) {
	chunk, err := os.ReadFile(filepath.Join("testdata", "chunk.msgpack"))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"auto", "msgpack"} {
		var out bytes.Buffer
		if err := Run(bytes.NewReader(chunk), &out, options(func(o *Options) { o.JSON, o.Format = true, format })); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("testdata", "chunk.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("got\n%s\nwant\n%s", out.Bytes(), want)
		}
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestInputAndOutputFail(t *testing.T) {
	broken := errors.New("broken pipe")
	if err := Run(iotest.ErrReader(broken), &bytes.Buffer{}, options(func(o *Options) {})); !errors.Is(err, broken) {
		t.Error(err)
	}
	for _, asJSON := range []bool{true, false} {
		err := Run(strings.NewReader(strings.Repeat(`{"log":"x"}`, 1000)), failing{}, options(func(o *Options) { o.JSON = asJSON }))
		if err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Error(err)
		}
	}
	endless := io.Reader(&zeros{})
	if err := Run(endless, &bytes.Buffer{}, options(func(o *Options) {})); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
}

type zeros struct{}

func (*zeros) Read(p []byte) (int, error) { return len(p), nil }

func FuzzRun(f *testing.F) {
	f.Add([]byte(`{"log":"x","date":1}[{"a":[1]}] 7 {"b"`), uint8(0))
	f.Add([]byte("\x92\x92\xce\x6a\xb1\x3b\x81\x81\xa3seq\x07\x81\xa3log\xc4\x02l\xff\x81\xa3log\xa1x\xc1"), uint8(1))
	if chunk, err := os.ReadFile(filepath.Join("testdata", "chunk.msgpack")); err != nil {
		f.Fatal(err)
	} else {
		f.Add(chunk, uint8(3))
	}
	names := mapping.Receivers()
	f.Fuzz(func(t *testing.T, data []byte, how uint8) {
		for _, asJSON := range []bool{true, false} {
			var out bytes.Buffer
			err := Run(bytes.NewReader(data), &out, options(func(o *Options) { o.JSON, o.Receiver = asJSON, names[int(how)%len(names)] }))
			if out.Len() == 0 && err == nil {
				t.Fatal("neither output nor error")
			}
			if !asJSON {
				continue
			}
			for line := range bytes.Lines(out.Bytes()) {
				if !json.Valid(line) {
					t.Fatalf("not JSON: %s", line)
				}
			}
		}
	})
}
