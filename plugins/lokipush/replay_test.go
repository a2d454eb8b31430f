package lokipush

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
)

// event is what an agent was given before it made a push of it.
type event struct {
	TS     int64          `json:"ts_ns"`
	Record map[string]any `json:"record"`
}

func events(t *testing.T, name string) []event {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name + ".events.json")
	if err != nil {
		t.Fatal(err)
	}
	var out []event
	for d := json.NewDecoder(bytes.NewReader(raw)); d.More(); {
		var e event
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

var words = regexp.MustCompile(`[A-Za-z0-9_ .]{4,}`)

// recognise returns what of e every line made of it has, whatever its format.
func (e event) recognise() string {
	for _, key := range []string{"log", "message"} {
		if s, ok := e.Record[key].(string); ok {
			return words.FindString(s)
		}
	}
	if _, ok := e.Record["log"]; ok {
		return "bad "
	}
	return "-9223372036854775808"
}

// replayAll sends raw bytes over one connection and returns the answers.
func replayAll(t *testing.T, rc *Receiver, raw ...[]byte) []*http.Response {
	t.Helper()
	mux := http.NewServeMux()
	rc.Register(mux)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	in := bufio.NewReader(conn)
	var out []*http.Response
	for _, p := range raw {
		if _, err := conn.Write(p); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		out = append(out, resp)
	}
	return out
}

// TestReplay sends what real clients sent over a socket: each event comes out
// once, at its time, in the right stream, and the client gets the answer that
// it takes for success.
func TestReplay(t *testing.T) {
	for name, raw := range captured(t) {
		want := events(t, "fluentbit")
		if strings.HasPrefix(name, "fdloki") {
			want = events(t, "fluentd")
		}
		s := &sink{}
		resp := replayAll(t, receiverFor(t, s), raw)[0]
		if resp.StatusCode != 204 {
			t.Fatalf("%s: %s", name, resp.Status)
		}
		if len(s.got) != len(want) {
			t.Fatalf("%s: %d entries of %d events: %q", name, len(s.got), len(want), s.got)
		}
		for _, e := range want {
			stamp := " " + strconv.FormatInt(e.TS, 10) + " "
			at := slices.IndexFunc(s.got, func(g string) bool { return strings.Contains(g, stamp) })
			if at < 0 {
				t.Fatalf("%s: no entry at %d", name, e.TS)
			}
			client := strings.SplitN(name, ".", 2)[0]
			l, ok := layouts[client]
			if !ok {
				l = labelled
			}
			if stream := l.stream(client, e); !strings.HasPrefix(s.got[at], stream+" ") {
				t.Fatalf("%s: entry %q is not in stream %s", name, s.got[at], stream)
			}
			if !strings.Contains(s.got[at], e.recognise()) {
				t.Fatalf("%s: entry %q is not of the event with %q", name, s.got[at], e.recognise())
			}
		}
	}
}

// layout says what labels a client was told to give.
type layout struct {
	static map[string]string
	from   map[string]string // label: path in the record
}

var (
	labelled = layout{
		map[string]string{"job": "fluent-bit", "env": "prod"},
		map[string]string{"pod": "kubernetes/pod_name", "stream": "stream"},
	}
	mapped = map[string]string{
		"container": "kubernetes/container_name", "pod": "kubernetes/pod_name", "namespace": "kubernetes/namespace_name",
		"app": "kubernetes/labels/app", "stream": "stream",
	}
	kube = map[string]string{
		"app": "kubernetes/labels/app", "app_kubernetes_io_name": "kubernetes/labels/app.kubernetes.io/name",
		"pod_template_hash": "kubernetes/labels/pod-template-hash",
	}
	pod = map[string]string{
		"container_image": "kubernetes/container_image", "container_name": "kubernetes/container_name", "host": "kubernetes/host",
		"namespace_name": "kubernetes/namespace_name", "pod_name": "kubernetes/pod_name",
	}
	layouts = map[string]layout{
		"fdloki_default":             {map[string]string{"env": "dev"}, nil},
		"fdloki_drop_single_basic":   {},
		"flb_loki_default":           {map[string]string{"job": "fluent-bit"}, nil},
		"flb_loki_auto_k8s":          {nil, kube},
		"flb_loki_drop_single":       {nil, map[string]string{"stream": "stream"}},
		"flb_loki_drop_single_raw":   {nil, map[string]string{"stream": "stream"}},
		"flb_loki_label_keys_remove": {nil, map[string]string{"stream": "stream", "kubernetes_namespace_name": "kubernetes/namespace_name"}},
		"flb_loki_label_map":         {nil, mapped},
		"grafana_go_default":         {map[string]string{"job": "fluent-bit"}, nil},
		"grafana_go_auto_k8s":        {map[string]string{"job": "fluent-bit"}, merge(kube, pod)},
		"grafana_go_labelmap":        {map[string]string{"job": "fluent-bit"}, mapped},
	}
)

func merge(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// stream returns the labels that the client must have given e. Fluent Bit's own
// output has job where it found none.
func (l layout) stream(client string, e event) string {
	set := map[string]string{}
	maps.Copy(set, l.static)
	for label, path := range l.from {
		var v any = e.Record
		for rest := path; v != nil; {
			key, more, deeper := strings.Cut(rest, "/")
			if strings.HasPrefix(rest, "app.kubernetes.io") {
				key, deeper = rest, false
			}
			v = v.(map[string]any)[key]
			if !deeper {
				break
			}
			rest = more
		}
		if v, ok := v.(string); ok {
			set[label] = v
		}
	}
	if len(set) == 0 && strings.HasPrefix(client, "flb") {
		set["job"] = "fluent-bit"
	}
	return labels.FromMap(set).String()
}

// TestRetries: Fluent Bit sends a chunk again after 429 and 5xx, on the same
// connection where it is still open; only 400 makes it drop one.
func TestRetries(t *testing.T) {
	read := func(name string, n int) []byte {
		raw, err := os.ReadFile(fmt.Sprintf("testdata/flb_loki_status_%s.req%d.bin", name, n))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, status := range []string{"429", "500"} {
		s := &sink{}
		for n, resp := range replayAll(t, receiverFor(t, s), read(status, 0), read(status, 1), read(status, 2)) {
			if resp.StatusCode != 204 || resp.Close {
				t.Fatalf("%s, request %d: %s, close %v", status, n, resp.Status, resp.Close)
			}
		}
	}
}
