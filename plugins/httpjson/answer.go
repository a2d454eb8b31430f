package httpjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// outcome is what became of a request.
type outcome struct {
	err      error                // nothing more is known to be stored
	broken   *mapping.SyntaxError // the body could be read up to here
	rejected push.Rejected        // by us and by the sink
	unread   int                  // by us: pieces of input that are no event
	stored   int
	bytes    int // of the body, decoded
}

// refuse counts a piece of input of n bytes that cannot be mapped.
func (o *outcome) refuse(reason push.Reason, n int, why string) {
	o.unread++
	o.rejected.Add(reason, "", 1, n, func() string { return why })
}

// pushed takes in what the sink said of a batch of n entries. It returns an
// error that is one of all of them.
func (o *outcome) pushed(err error, n int) error {
	var r *push.Rejected
	switch {
	case err == nil:
		o.stored += n
	case errors.As(err, &r):
		o.stored += n - r.Entries
		o.rejected.Merge(r)
	default:
		return err
	}
	return nil
}

func (o *outcome) disconnected() bool { return errors.Is(o.err, httpbody.ErrDisconnected) }

// text says in one line what was refused and why.
func (o *outcome) text() string {
	switch {
	case o.err != nil:
		return o.err.Error()
	case o.broken != nil && o.rejected.Entries > 0:
		return fmt.Sprintf("%v; %d events before it are stored; %s", o.broken, o.stored, o.rejected.Error())
	case o.broken != nil:
		return fmt.Sprintf("%v; %d events before it are stored", o.broken, o.stored)
	}
	return o.rejected.Error()
}

// answer answers the request and returns the status.
func (h *handler) answer(w http.ResponseWriter, o *outcome) int {
	o.rejected.Total = o.stored + o.rejected.Entries
	err := o.err
	if err == nil && o.rejected.Retryable() {
		err = o.later()
	}
	switch {
	case err != nil && h.keep:
		return httpbody.WriteError(w, temporary(err))
	case err != nil:
		return httpbody.WriteError(w, err)
	case o.broken != nil:
		return httpbody.WriteError(w, push.Errorf(push.Malformed, "%s", o.text()))
	case o.rejected.Entries == 0:
		w.WriteHeader(http.StatusNoContent)
		return http.StatusNoContent
	case o.stored == 0 && !h.keep:
		return httpbody.WriteError(w, &o.rejected)
	}
	return o.writePartial(w)
}

// later is the answer where some events were refused that may pass when the
// request comes again; the sender has no way to send only them.
func (o *outcome) later() error {
	for _, g := range o.rejected.Groups {
		if g.Reason.Retryable() {
			return push.Errorf(g.Reason, "%s", o.text())
		}
	}
	return nil
}

// temporary makes of an error one that tells a sender to come again, whatever
// it is: the sender would drop everything at another.
func temporary(err error) error {
	var e *push.Error
	switch {
	case errors.Is(err, httpbody.ErrDisconnected):
	case !errors.As(err, &e):
		return push.Errorf(push.Overloaded, "%v", err)
	case !e.Reason.Retryable() || e.Reason == push.Internal:
		return push.Errorf(push.Overloaded, "%s", e.Msg)
	}
	return err
}

func (o *outcome) writePartial(w http.ResponseWriter) int {
	type reason struct {
		Reason string `json:"reason"`
		Count  int    `json:"count"`
		First  string `json:"first"`
	}
	body := struct {
		Stored   int      `json:"stored"`
		Rejected int      `json:"rejected"`
		Errors   []reason `json:"errors"`
	}{o.stored, o.rejected.Entries, []reason{}}
	for _, g := range o.rejected.Groups {
		body.Errors = append(body.Errors, reason{g.Reason.String(), g.Count, g.First})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone does not matter here
	return http.StatusOK
}
