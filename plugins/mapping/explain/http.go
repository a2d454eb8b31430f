package explain

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/plugins/httpjson"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// httpReceiver sends records through a receiver, as a client would.
type httpReceiver struct {
	r      *run
	mux    *http.ServeMux
	header http.Header
	took   bool   // the receiver has made something of the record
	wrong  string // what it buried
}

func newHTTPReceiver(r *run, m *mapping.Mapper) (*httpReceiver, error) {
	h := &httpReceiver{r: r, mux: http.NewServeMux(), header: http.Header{"Content-Type": {"application/json"}}}
	cfg := httpjson.DefaultConfig()
	recv, err := httpjson.New(httpjson.Deps{Sink: h, Mapper: m, Now: func() time.Time { return r.now }}, cfg)
	if err != nil {
		return nil, err
	}
	recv.Register(h.mux)
	if r.o.Tag != "" {
		h.header.Set(cfg.TagHeaders[0], r.o.Tag)
	}
	if r.o.Tenant != "" {
		h.header.Set(httpbody.TenantHeader, r.o.Tenant)
	}
	return h, nil
}

// take explains a record; the result says why it is none.
func (h *httpReceiver) take(text []byte) (problem string) {
	h.took, h.wrong = false, ""
	req, err := http.NewRequest(http.MethodPost, "/ingest/"+h.r.o.Receiver, bytes.NewReader(text))
	if err != nil {
		return err.Error()
	}
	req.Header = h.header
	w := &answer{header: http.Header{}}
	h.mux.ServeHTTP(w, req)
	switch {
	case h.wrong != "":
		return h.wrong
	case !h.took:
		return fmt.Sprintf("the receiver answers %d: %s", w.code, strings.TrimSpace(w.body.String()))
	}
	return ""
}

// Admit makes h an httpjson.Sink.
func (h *httpReceiver) Admit(context.Context, int64) (func(), error) { return func() {}, nil }

// Push prints b.
func (h *httpReceiver) Push(_ context.Context, b *push.Batch) error {
	h.took = true
	for _, d := range b.Dead {
		h.wrong = d.Text
	}
	h.r.p.batch(b, h.r.now)
	return nil
}

// answer is a response writer.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(code int) {
	if a.code == 0 {
		a.code = code
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}
