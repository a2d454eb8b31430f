package auth

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/gateway/tenant"
	"github.com/loki-go/loki-go/proto/ingestpb"
)

const authorization = "authorization"

var tenantKey = strings.ToLower(tenant.Header)

// Unary returns an interceptor that does for calls what Wrap does for requests,
// by the metadata authorization and x-scope-orgid. The tenant that an ingestpb
// message names counts as well.
func (a *Auth) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		ctx, err := a.admit(ctx, info.FullMethod, req)
		if err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

// Stream is Unary for streams.
func (a *Auth) Stream() grpc.StreamServerInterceptor {
	return func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		ctx, err := a.admit(s.Context(), info.FullMethod, nil)
		if err != nil {
			return err
		}
		return next(srv, &stream{s, ctx})
	}
}

// stream is a stream with the context of an admitted one.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream) Context() context.Context { return s.ctx }

func (a *Auth) admit(ctx context.Context, method string, req any) (context.Context, error) {
	if !a.cfg.Enabled() || a.exempt[method] {
		return ctx, nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	named := md.Get(tenantKey)
	msg, _ := req.(*ingestpb.PushRequest)
	if msg != nil && msg.Tenant != "" {
		named = append(named[:len(named):len(named)], msg.Tenant)
	}
	id, name, why := a.decide(ctx, md.Get(authorization), named)
	if why != admitted {
		from := ""
		if p, ok := peer.FromContext(ctx); ok {
			from = p.Addr.String()
		}
		_, code, text := a.refuse(why, id, from, named)
		return nil, status.Error(code, text)
	}
	md = md.Copy()
	md.Delete(authorization)
	if name != "" {
		md.Set(tenantKey, name)
		if msg != nil {
			msg.Tenant = name
		}
	}
	return metadata.NewIncomingContext(withIdentity(ctx, id), md), nil
}
