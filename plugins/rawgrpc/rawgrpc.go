// Package rawgrpc is what the gRPC services that decode their requests
// themselves share: a codec that hands them the bytes, the options of a server
// for them, and the compressions that their clients use.
//
// A service is registered with a grpc.ServiceDesc made by Desc. The server needs
// ServerOption; its other services are not affected by it.
//
// Nothing here has state but pools; all of it may be used concurrently.
package rawgrpc

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	_ "google.golang.org/grpc/encoding/gzip" // clients compress with it
)

// request is a message as it came, decompressed.
type request struct{ buf mem.Buffer }

// codec is that of protobuf, but leaves requests and responses of this package
// as they are.
type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*request)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	r.buf = data.MaterializeToBuffer(mem.DefaultBufferPool())
	return nil
}

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if p, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(p)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// ServerOption makes a server able to serve what Desc describes.
func ServerOption() grpc.ServerOption {
	return grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(proto.Name)})
}

// Handler answers one call. req is valid until it returns; the answer is a
// message as protobuf.
type Handler func(ctx context.Context, req []byte) (answer []byte, err error)

// Desc describes a service with one unary method.
func Desc(service, method string, serve Handler) *grpc.ServiceDesc {
	call := func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		var r request
		if err := decode(&r); err != nil {
			return nil, err
		}
		if r.buf == nil {
			return nil, fmt.Errorf("rawgrpc: the server lacks ServerOption")
		}
		defer r.buf.Free()
		run := func(ctx context.Context, _ any) (any, error) {
			answer, err := serve(ctx, r.buf.ReadOnlyData())
			if err != nil {
				return nil, err
			}
			return answer, nil
		}
		if intercept == nil {
			return run(ctx, nil)
		}
		return intercept(ctx, &r, &grpc.UnaryServerInfo{FullMethod: "/" + service + "/" + method}, run)
	}
	return &grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: method, Handler: call}},
	}
}

// Tenant returns the tenant that a call names, as the header X-Scope-OrgID does
// over HTTP.
func Tenant(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, "x-scope-orgid"); len(v) > 0 {
		return v[0]
	}
	return ""
}
