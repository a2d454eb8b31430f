package otlp

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// captured returns the requests that a real Fluent Bit 5.1 sent.
func captured(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.bin")
	if err != nil || len(files) == 0 {
		t.Fatalf("no captured requests: %v", err)
	}
	out := map[string][]byte{}
	for _, name := range files {
		if out[strings.TrimSuffix(filepath.Base(name), ".req0.bin")], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// Lines of the events that were sent: bodies are the value of the key log or
// message, else the whole map. The fifth has a binary value beside its body, the
// last is not UTF-8.
const longMap = `{\"arr\":[1,\"two\",3.5,null,[true,{\"k\":\"v\"}]],\"empty\":\"\",\"empty_arr\":[],\"empty_map\":{},\"f\":false,\"f64\":3.141592653589793,\"f_big\":1e+300,\"f_neg\":-0.001,\"i16\":-30000,\"i32\":-2000000000,\"i64\":-9223372036854775808,\"int\":42,\"key with space.and/dots\":\"v\",\"long\":\"XXX\",\"neg\":-7,\"nil\":null,\"t\":true,\"u32\":4294967295,\"u64\":-1,\"日本\":\"キー\"}`

func bodies() []string {
	return []string{
		`{} 1790000000123456789 "GET /índex?q=日本語 HTTP/1.1 200 😀\n"`,
		`{} 1790000001000000000 "{\"level\":\"warn\",\"msg\":\"nested json, tab\\t quote \\\" ok\"}"`,
		`{} 1790000001999999999 "` + strings.Replace(longMap, "XXX", strings.Repeat("x", 300), 1) + `"`,
		`{} 1790000002000005000 "binary follows"`,
		// Fluent Bit ends text at a NUL.
		`{} 1790000002000006000 "ctrl \x01 \x7f nul "`,
		`{} 1790000003000007000 "bad \xff\xfe utf8 \xc3("`,
	}
}

// replay sends raw bytes over a socket and returns the answer.
func replay(t *testing.T, rc *Receiver, raw []byte) *http.Response {
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
	if _, err := conn.Write(raw); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestReplay(t *testing.T) {
	for name, raw := range captured(t) {
		s := &sink{}
		resp := replay(t, receiverFor(t, s), raw)
		// Fluent Bit takes 200 to 205 for success, whatever the body.
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != protobuf {
			t.Fatalf("%s: %s", name, resp.Status)
		}
		want := bodies()
		switch name {
		case "flb_otel_logs_metadata":
			if s.tenant != "t1" {
				t.Fatalf("tenant %q", s.tenant)
			}
			want = want[:5] // which is what was sent then
			for i := range want {
				want[i] += metadataOf(i)
			}
		case "flb_otel_logs_body_key":
			want = bodyKey()
		}
		if !slices.Equal(s.got, want) {
			t.Fatalf("%s:\ngot\n%s\nwant\n%s", name, strings.Join(s.got, "\n"), strings.Join(want, "\n"))
		}
		if s.id == [16]byte{} {
			t.Fatalf("%s: no id", name)
		}
	}
}

// metadataOf is what Fluent Bit kept beside the i-th record.
func metadataOf(i int) string {
	return fmt.Sprintf(` nested_a="[1,2]" seq="%d" trace_id="4bf92f3577b34da6a3ce929d0e0e4736"`, i)
}

// bodyKey are the events as sent with logs_body_key_attributes: fields beside
// the body are attributes. Where the key is not there the body is the whole map.
func bodyKey() []string {
	const kube = ` kubernetes_annotations_prometheus_io_scrape="true" kubernetes_container_image="registry.example/web:1.2.3" kubernetes_container_name="web" kubernetes_docker_id="0a1b2c" kubernetes_host="node-1" kubernetes_labels_app="web" kubernetes_labels_app_kubernetes_io_name="wéb-ü" kubernetes_labels_pod_template_hash="7c9b" kubernetes_namespace_name="default" kubernetes_pod_id="5e0b6d0a-3a57-4a2c-8f0e-0d9e4f1c2b3a" kubernetes_pod_name="web-7c9b"`
	b := bodies()
	b[0] += kube + ` stream="stdout" time="2026-09-21T14:13:20.123456789Z"`
	b[1] += kube + ` stream="stderr"`
	b[3] += ` bin="AAH+/4ByYXc="`
	b[4] = `{} 1790000002000006000 "{\"message\":\"ctrl \\u0001 \x7f nul \",\"n\":0}"`
	b[5] += ` stream="stdout"`
	return b
}

// decompressed returns the body of a captured request.
func decompressed(t testing.TB, raw []byte) []byte {
	body := raw[bytes.Index(raw, []byte("\r\n\r\n"))+4:]
	if !bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		return body
	}
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body, err = io.ReadAll(r); err != nil {
		t.Fatal(err)
	}
	return body
}
