package otlp

import (
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"strconv"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/proto/push"
)

// mediaError says that a body is in neither encoding.
type mediaError struct{ contentType string }

func (e *mediaError) Error() string {
	return fmt.Sprintf("Content-Type %.100q is not application/x-protobuf or application/json", e.contentType)
}

// Unwrap makes the client's fault of it.
func (e *mediaError) Unwrap() error { return push.Errorf(push.Malformed, "%s", e.Error()) }

// isJSON tells the two encodings apart.
func isJSON(contentType string) (bool, error) {
	t := contentType
	if t != "application/x-protobuf" && t != "application/json" {
		t, _, _ = mime.ParseMediaType(contentType) // "" for none
	}
	switch t {
	case "application/x-protobuf", "application/protobuf":
		return false, nil
	case "application/json":
		return true, nil
	}
	return false, &mediaError{contentType}
}

// ServeHTTP answers one export.
func (rc *Receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "method not allowed: use POST", http.StatusMethodNotAllowed)
		return
	}
	p := request{rc: rc, ctx: r.Context(), tenant: r.Header.Get(httpbody.TenantHeader)}
	defer p.release()
	o := p.serveHTTP(r)
	code := http.StatusOK
	switch {
	case o.err != nil:
		code = writeError(w, o.err, p.json)
	case p.json:
		write(w, code, o.responseJSON(), true)
	default:
		write(w, code, o.response(), false)
	}
	format := "protobuf"
	if p.json {
		format = "json"
	}
	rc.note(&p, &o, format, strconv.Itoa(code), r.RemoteAddr)
}

func (p *request) serveHTTP(r *http.Request) outcome {
	var err error
	if p.json, err = isJSON(r.Header.Get("Content-Type")); err != nil {
		return outcome{err: err}
	}
	w := p.rc.work.Get().(*work)
	defer p.rc.put(w)
	w.body, err = httpbody.Options{
		MaxWire:    int64(p.rc.cfg.MaxRecvSize),
		MaxDecoded: int64(p.rc.cfg.MaxDecodedSize),
		Admit:      p.admit,
	}.Read(r, w.body[:0])
	if err != nil {
		return outcome{err: err}
	}
	p.id = httpbody.PushID(r.Header, w.body)
	return p.export(w, w.body)
}

// note counts and logs a request that was answered.
func (rc *Receiver) note(p *request, o *outcome, format, status, peer string) {
	refused := 0
	if o.err == nil {
		refused = o.refused
	}
	rc.metrics.count(format, status, p.bytes, p.records, refused)
	switch {
	case errors.Is(o.err, httpbody.ErrDisconnected) || p.ctx.Err() != nil:
	case o.err != nil && internal(o.err):
		rc.failed.Log(slog.LevelError, "push failed", "receiver", receiver, "peer", peer, "err", o.err)
	case o.err != nil:
		rc.refused.note(peer, status, o.err.Error())
	case o.refused > 0:
		rc.refused.note(peer, status, o.text)
	}
}
