package otlp

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/proto/push"
)

// outcome is what a request led to: err, or success but for the refused
// records.
type outcome struct {
	err     error
	refused int
	text    string
}

// settle makes an outcome of what the decoder and the sink say. Records that
// are refused for good are told with the success of the others; if some may be
// accepted later, the client is asked to send all of it again, as it would not
// do so after a success.
func settle(e *emitter, err error) outcome {
	o := outcome{refused: e.refused, text: e.refusal()}
	var r *push.Rejected
	var whole *push.Error
	switch {
	case err == nil:
	case errors.As(err, &r) && !r.Retryable():
		o.refused += r.Entries
		o.text = join(o.text, r.Error())
	case errors.As(err, &r):
		o.err = later(r)
	case errors.As(err, &whole) && whole.Reason == push.BlockedIngestion:
		// Loki answers with a code that passes for success, so that clients
		// neither retry nor complain. This is what OTLP has for it.
		o.refused, o.text = e.records, join(o.text, whole.Msg)
	default:
		o.err = err
	}
	return o
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// later returns the error for a batch of which some entries may be accepted if
// they are sent again.
func later(r *push.Rejected) error {
	for _, g := range r.Groups {
		if g.Reason.Retryable() {
			return &push.Error{Reason: g.Reason, Msg: r.Error()}
		}
	}
	return r
}

// temporary makes an error of err whose reason clients understand: they never
// send again what an internal error refused, and nothing says that this one
// stays. Where waiting helps it says how long.
func temporary(err error) error {
	var e *push.Error
	if !errors.As(err, &e) {
		e = &push.Error{Reason: push.Internal, Msg: err.Error()}
	}
	if !e.Reason.Retryable() {
		return err
	}
	out := *e
	if out.Reason == push.Internal {
		out.Reason = push.Overloaded
	}
	if out.RetryAfter <= 0 {
		out.RetryAfter = time.Second
	}
	return &out
}

// grpcStatus returns err as the status of a call.
func grpcStatus(err error) *status.Status {
	return status.Convert(ingestpb.StatusError(temporary(err)))
}

// httpStatus returns the code of err and the time to wait before a retry.
func httpStatus(err error) (code int, wait time.Duration) {
	var media *mediaError
	if errors.As(err, &media) {
		return http.StatusUnsupportedMediaType, 0
	}
	return httpbody.Status(temporary(err))
}

// writeError answers a request over HTTP with a google.rpc.Status.
func writeError(w http.ResponseWriter, err error, json bool) int {
	code, wait := httpStatus(err)
	s := status.New(codes.Code(grpcStatus(err).Code()), clip(err.Error())).Proto()
	h := w.Header()
	if wait > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
		if st, err := status.FromProto(s).WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}); err == nil {
			s = st.Proto()
		}
	}
	var body []byte
	if json {
		body, err = protojson.Marshal(s)
	} else {
		body, err = proto.Marshal(s)
	}
	if err != nil { // cannot be: texts are valid UTF-8, the details are known
		body = nil
	}
	write(w, code, body, json)
	return code
}

func write(w http.ResponseWriter, code int, body []byte, json bool) {
	h := w.Header()
	h.Set("Content-Type", "application/x-protobuf")
	if json {
		h.Set("Content-Type", "application/json")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(body) // a client that is gone does not matter here
}

// response returns an ExportLogsServiceResponse.
func (o *outcome) response() []byte {
	if o.refused == 0 {
		return nil
	}
	partial := protowire.AppendTag(nil, 1, protowire.VarintType)
	partial = protowire.AppendVarint(partial, uint64(o.refused))
	partial = protowire.AppendTag(partial, 2, protowire.BytesType)
	partial = protowire.AppendString(partial, clip(o.text))
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial)
}

// responseJSON returns the same as JSON.
func (o *outcome) responseJSON() []byte {
	if o.refused == 0 {
		return []byte("{}")
	}
	b := strconv.AppendInt([]byte(`{"partialSuccess":{"rejectedLogRecords":"`), int64(o.refused), 10)
	b = appendQuoted(append(b, `","errorMessage":`...), []byte(clip(o.text)))
	return append(b, "}}"...)
}

// maxText bounds the text of an answer.
const maxText = 2 << 10

// clip makes s fit for a protobuf string in an answer.
func clip(s string) string {
	if len(s) > maxText {
		n := maxText
		for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// internal reports whether err is a fault of the server.
func internal(err error) bool {
	var e *push.Error
	return !errors.As(err, &e) || e.Reason == push.Internal
}
