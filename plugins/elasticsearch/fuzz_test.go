package elasticsearch

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/proto/push"
)

// FuzzBulk sends any body as a bulk request, of a client that is told about
// refused documents and of one that is not. Each action has one item, what is
// stored has status 201, and nothing is held afterwards.
func FuzzBulk(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.bin")
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			f.Fatal(err)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body, false)
	}
	f.Add(ecs(3, true), false)
	for _, s := range []string{
		mixed(4),
		"{\"create\":{}}\r\n{\"message\":\"a\"}\r\n\r\n{\"delete\":{\"_id\":1}}",
		`{"update":{"_index":"\u00fc\"","_id":"x","pipeline":"p"}}` + "\n" + `{"doc":{"a":[1,{"b":{}}],"time":1e9}}`,
		`{"update":{}}` + "\n" + `{"script":{},"upsert":{"a":"\ud800"}}` + "\n{}\n",
		`{"index":{}}` + "\n" + `{broken` + "\n" + `{"crate":{}}` + "\n" + `{"x":1}` + "\n" + `{"create":{}}`,
		`{"index":{"_index":null}}` + "\n[[{}]]\n\n{\"delete\":[]}",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, body []byte, keep bool) {
		s := &sink{}
		h := mux(newReceiver(t, s, func(c *Config) {
			c.MaxBody, c.MaxDecoded, c.MaxDocument, c.MaxActions = 64*units.KiB, 64*units.KiB, 16*units.KiB, 100
		}))
		req := newRequest("POST", "/_bulk", string(body))
		if keep {
			req.Header.Set("User-Agent", "Fluent-Bit")
		}
		rec := do(h, req)
		if s.held != 0 {
			t.Fatalf("%d bytes still held", s.held)
		}
		if rec.Code == 400 || rec.Code == 413 {
			var e struct{ Status int }
			decode(t, rec, &e)
			if e.Status != rec.Code || rec.Code == 400 && len(s.entries) > 0 {
				t.Fatalf("%d, %d stored: %s", rec.Code, len(s.entries), rec.Body)
			}
			return
		}
		if rec.Code != 200 {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		a := parseAnswer(t, rec.Body.Bytes())
		created, dead, failed := 0, 0, false
		for _, it := range a.Items {
			if len(it) != 1 {
				t.Fatalf("item %v", it)
			}
			for op, v := range it {
				switch {
				case v.Status == 201:
					created++
				case v.Status == 400 && v.Error != nil && !keep:
					failed = true
				case v.Status != 404 || op != "delete":
					t.Fatalf("item %v", it)
				}
			}
		}
		for _, b := range s.batches {
			dead += len(b.Dead) + b.DeadLeft
			if b.ID != (push.ID{}) && b.Receiver != name {
				t.Fatalf("batch %+v", b)
			}
		}
		if created != len(s.entries)+dead || failed != *a.Errors || !keep && dead > 0 {
			t.Fatalf("%d created, %d stored, %d dead letters, errors %v: %s", created, len(s.entries), dead, *a.Errors, rec.Body)
		}
	})
}
