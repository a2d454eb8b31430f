package lokipush

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/plugins/rawgrpc"
	"github.com/loki-go/loki-go/proto/push"
)

// RegisterGRPC adds the service to a server, which must have been made with
// rawgrpc.ServerOption. The server's limit on messages is that of a push.
func (rc *Receiver) RegisterGRPC(s grpc.ServiceRegistrar) {
	s.RegisterService(rawgrpc.Desc("logproto.Pusher", "Push", rc.pushGRPC), rc)
}

func (rc *Receiver) pushGRPC(ctx context.Context, req []byte) ([]byte, error) {
	p := request{rc: rc, ctx: ctx, format: "grpc"}
	err := p.serveGRPC(req)
	for _, release := range p.held {
		release()
	}
	code, wait := httpbody.Status(err)
	from := ""
	if pr, ok := peer.FromContext(ctx); ok {
		from = pr.Addr.String()
	}
	rc.note(&p, code, err, from)
	if err != nil {
		return nil, httpStatus(code, wait, err)
	}
	return nil, nil
}

func (p *request) serveGRPC(req []byte) error {
	if len(req) > int(p.rc.cfg.MaxDecodedSize) {
		return p.tooLarge()
	}
	// gRPC has read the request already; this makes it count.
	if err := p.admit(int64(len(req))); err != nil {
		return err
	}
	b := push.Get()
	defer b.Release()
	err := p.decodeInto(len(req), b, func() error { return b.SetData(append(b.Data[:0], req...)) })
	if err != nil {
		return err
	}
	return p.push(b, header(p.ctx), req)
}

// header returns the metadata of a call that over HTTP would be headers.
func header(ctx context.Context) http.Header {
	h := http.Header{}
	for _, name := range []string{httpbody.TenantHeader, "Idempotency-Key", "X-Request-Id"} {
		if v := metadata.ValueFromIncomingContext(ctx, strings.ToLower(name)); len(v) > 0 {
			h.Set(name, v[0])
		}
	}
	return h
}

// maxStatus bounds the text of a status, which must fit in an HTTP/2 header.
const maxStatus = 2 << 10

// httpStatus returns err as clients of Loki's gRPC services expect errors: the
// code is that of HTTP, and the details hold the answer as an
// httpgrpc.HTTPResponse (1 code, 2 headers: 1 key, 2 values; 3 body).
func httpStatus(code int, wait time.Duration, err error) error {
	text := err.Error()
	if len(text) > maxStatus {
		text = text[:maxStatus] + "..."
	}
	text = strings.ToValidUTF8(text, "\uFFFD")
	answer := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(code))
	if wait > 0 {
		h := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "Retry-After")
		seconds := strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
		h = protowire.AppendString(protowire.AppendTag(h, 2, protowire.BytesType), seconds)
		answer = protowire.AppendBytes(protowire.AppendTag(answer, 2, protowire.BytesType), h)
	}
	answer = protowire.AppendString(protowire.AppendTag(answer, 3, protowire.BytesType), text)
	return status.ErrorProto(&spb.Status{
		Code: int32(code), Message: text,
		Details: []*anypb.Any{{TypeUrl: "type.googleapis.com/httpgrpc.HTTPResponse", Value: answer}},
	})
}
