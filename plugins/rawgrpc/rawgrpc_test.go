package rawgrpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// serve starts a server with an echo of Desc and a service of ordinary messages
// beside it, and returns a connection to it.
func serve(t *testing.T, opts ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	srv := grpc.NewServer(opts...)
	srv.RegisterService(Desc("test.Echo", "Call", func(ctx context.Context, req []byte) ([]byte, error) {
		if Tenant(ctx) == "nobody" {
			return nil, fmt.Errorf("tenant nobody")
		}
		return bytes.Clone(req), nil
	}), nil)
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Plain", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Call", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in wrapperspb.StringValue
			err := decode(&in)
			return wrapperspb.String("plain " + in.Value), err
		}}},
	}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- srv.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}

// echo sends a StringValue and reads one back.
func echo(ctx context.Context, conn *grpc.ClientConn, service, text string, opts ...grpc.CallOption) (string, error) {
	var out wrapperspb.StringValue
	err := conn.Invoke(ctx, "/"+service+"/Call", wrapperspb.String(text), &out, opts...)
	return out.Value, err
}

func TestServices(t *testing.T) {
	conn := serve(t, ServerOption())
	ctx := context.Background()
	long := strings.Repeat("long text. ", 5_000)
	var wg sync.WaitGroup
	for _, enc := range []string{"identity", "gzip", "zstd", "snappy"} {
		wg.Go(func() {
			for range 3 {
				for _, text := range []string{"", "short", long} {
					if got, err := echo(ctx, conn, "test.Echo", text, grpc.UseCompressor(enc)); err != nil || got != text {
						t.Errorf("%s: %d of %d bytes, %v", enc, len(got), len(text), err)
						return
					}
				}
				if got, err := echo(ctx, conn, "test.Plain", "x", grpc.UseCompressor(enc)); err != nil || got != "plain x" {
					t.Errorf("%s: the service beside it: %q, %v", enc, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	named := metadata.AppendToOutgoingContext(ctx, "x-scope-orgid", "nobody")
	if _, err := echo(named, conn, "test.Echo", "x"); status.Convert(err).Message() != "tenant nobody" {
		t.Fatalf("got %v", err)
	}
}

func TestInterceptor(t *testing.T) {
	var method string
	conn := serve(t, ServerOption(), grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		method = info.FullMethod
		return next(ctx, req)
	}))
	if got, err := echo(context.Background(), conn, "test.Echo", "x"); err != nil || got != "x" || method != "/test.Echo/Call" {
		t.Fatalf("%q, %v, method %q", got, err, method)
	}
}

func TestWithoutOption(t *testing.T) {
	conn := serve(t)
	var out emptypb.Empty
	if err := conn.Invoke(context.Background(), "/test.Echo/Call", &out, &out); err == nil {
		t.Fatal("served without the codec")
	}
}

// TestBadInput: a decoder that failed must not spoil the next message.
func TestBadInput(t *testing.T) {
	for _, name := range []string{"zstd", "snappy"} {
		c := encoding.GetCompressor(name)
		var good bytes.Buffer
		w, err := c.Compress(&good)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(strings.Repeat("text ", 1000))); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			for _, bad := range [][]byte{[]byte("garbage that is no frame"), good.Bytes()[:good.Len()/2]} {
				r, err := c.Decompress(bytes.NewReader(bad))
				if err == nil {
					_, err = io.ReadAll(r)
				}
				if err == nil {
					t.Fatalf("%s: bad input was read", name)
				}
			}
			r, err := c.Decompress(bytes.NewReader(good.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			if p, err := io.ReadAll(r); err != nil || len(p) != 5000 {
				t.Fatalf("%s: %d bytes, %v", name, len(p), err)
			}
			if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Fatalf("%s: %d, %v behind the end", name, n, err)
			}
		}
	}
}
