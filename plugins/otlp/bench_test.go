package otlp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/proto/push"
)

// benchRequest returns n records as a collector sends them, in both encodings.
func benchRequest(n int) (proto, json []byte) {
	gen := loglines.New(1)
	var resources []resourceOf
	const apps = 10
	for app := range apps {
		s := scopeOf{Name: "github.com/example/app/logging", Version: "1.4.0"}
		for i := app; i < n; i += apps {
			ts := uint64(1_790_000_000_000_000_000) + uint64(i)*1_234_567
			s.Records = append(s.Records, record{
				Time: ts, Observed: ts + 1000, Severity: 9, SeverityText: "INFO", Body: string(gen.AppendLine(nil, app, int64(ts))),
				Attrs: kvs{
					{"log.file.name", "app.log"},
					{"log.iostream", "stdout"},
					{"thread.id", int64(i % 50)},
					{"code.function", "serve"},
					{"http.response.status_code", int64(200)},
				},
				Flags: 1, Trace: fmt.Appendf(nil, "%016d", i), Span: fmt.Appendf(nil, "%08d", i),
			})
		}
		resources = append(resources, resourceOf{
			Attrs: kvs{
				{"service.name", loglines.AppName(app)},
				{"k8s.namespace.name", "shop"},
				{"k8s.pod.name", fmt.Sprintf("app-%d-x7k2p", app)},
				{"k8s.container.name", "app"},
				{"host.name", "node-1"},
				{"os.type", "linux"},
				{"k8s.node.name", "node-1"},
				{"k8s.pod.uid", "0f2a4c52-90b3-4f0e-9d1a-0b1c2d3e4f50"},
			},
			Scopes: []scopeOf{s},
		})
	}
	return protoRequest(resources...), jsonRequest(resources...)
}

type nullSink struct{ entries int }

func (s *nullSink) Admit(context.Context, int64) (func(), error) { return func() {}, nil }
func (s *nullSink) Push(_ context.Context, b *push.Batch) error {
	s.entries += len(b.Entries)
	return nil
}

// nullWriter is an answer that nobody reads.
type nullWriter struct{ h http.Header }

func (w nullWriter) Header() http.Header         { return w.h }
func (w nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w nullWriter) WriteHeader(int)             {}

func BenchmarkExport(b *testing.B) {
	const n = 5000
	pb, js := benchRequest(n)
	for _, c := range []struct {
		name, contentType, enc string
		body                   []byte
		size                   int
	}{
		{"protobuf", protobuf, "", pb, len(pb)},
		{"protobuf-gzip", protobuf, "gzip", compress(b, "gzip", pb), len(pb)},
		{"protobuf-zstd", protobuf, "zstd", compress(b, "zstd", pb), len(pb)},
		{"json", jsonType, "", js, len(js)},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := &nullSink{}
			rc := receiverFor(b, s)
			in := bytes.NewReader(nil)
			r := httptest.NewRequest("POST", "/v1/logs", nil)
			r.Header.Set("Content-Type", c.contentType)
			if c.enc != "" {
				r.Header.Set("Content-Encoding", c.enc)
			}
			r.Body, r.ContentLength = io.NopCloser(in), int64(len(c.body))
			w := nullWriter{http.Header{}}
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			for b.Loop() {
				in.Reset(c.body)
				s.entries = 0
				rc.ServeHTTP(w, r)
				if s.entries != n {
					b.Fatal(s.entries)
				}
			}
		})
	}
}
