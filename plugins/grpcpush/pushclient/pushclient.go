// Package pushclient pushes batches to servers of loki-go over gRPC. Its Push
// means what every Push in the system means (see docs/architecture.md), and
// its errors are those that the server's own Push returned.
//
// A Client keeps one connection to every server and spreads pushes over those
// that answer, whoever calls. A server that cannot take a push, or that says
// nothing for half of the time that is left, is followed by another one; a push
// that reached two of them is stored once, if the batch has an id. Names are
// looked up again every half minute and when a connection breaks, so that
// servers may come, go and move.
//
// New dials nothing; Close ends the connections. All methods may be called
// concurrently.
package pushclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/proto/push"
)

// Options say where the servers are.
type Options struct {
	// Addresses are HOST:PORT. A name stands for all its IP addresses, each of
	// which is taken for a server.
	Addresses []string
	// TLS, if set, secures the connections. The name in a server's certificate
	// is the HOST of its address, unless TLS says otherwise.
	TLS *tls.Config
	// UserAgent goes into every call.
	UserAgent string
	// Metadata, if set, returns what every call carries beside the push: names,
	// in lower case, and values by turns. It may be called concurrently.
	Metadata func() ([]string, error)

	lookup func(ctx context.Context, host string) ([]string, error) // for tests
}

// Client pushes to some servers.
type Client struct {
	conn     *grpc.ClientConn
	ingest   ingestpb.IngestClient
	metadata func() ([]string, error)
	servers  *atomic.Int64 // how many there are, by the last look-up
}

// How connections are made and kept. A server that comes back is found again
// within seconds; one that vanished without a word is given up after 20, in the
// middle of a push or between two. Servers of ours allow a ping every 10 s.
var (
	reconnect = grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
		MinConnectTimeout: 5 * time.Second,
	}
	alive = keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}
)

// writeBuffer is how much of pushes goes into one write.
const writeBuffer = 128 << 10

// New returns a Client. The addresses are checked, not connected to.
func New(o Options) (*Client, error) {
	if len(o.Addresses) == 0 {
		return nil, errors.New("pushclient: no address")
	}
	for _, a := range o.Addresses {
		if err := CheckAddress(a); err != nil {
			return nil, fmt.Errorf("pushclient: %w", err)
		}
	}
	creds, serverName := insecure.NewCredentials(), ""
	if o.TLS != nil {
		creds, serverName = credentials.NewTLS(o.TLS), o.TLS.ServerName
	}
	if o.lookup == nil {
		o.lookup = net.DefaultResolver.LookupHost
	}
	c := &Client{metadata: o.Metadata, servers: new(atomic.Int64)}
	c.servers.Store(int64(len(o.Addresses)))
	conn, err := grpc.NewClient(scheme+":///",
		grpc.WithTransportCredentials(creds),
		grpc.WithResolvers(&resolverBuilder{addresses: o.Addresses, serverName: serverName, servers: c.servers, lookup: o.lookup}),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"`+balancerName+`":{}}]}`),
		grpc.WithDisableServiceConfig(), // none from DNS
		grpc.WithConnectParams(reconnect),
		grpc.WithKeepaliveParams(alive),
		grpc.WithUserAgent(o.UserAgent),
		grpc.WithWriteBufferSize(writeBuffer),
	)
	if err != nil {
		return nil, fmt.Errorf("pushclient: %w", err)
	}
	c.conn, c.ingest = conn, ingestpb.NewIngestClient(conn)
	return c, nil
}

// Close ends all connections; calls under way fail.
func (c *Client) Close() error { return c.conn.Close() }

// Push sends b and marks in it what the server refused. It returns nil,
// *push.Rejected or *push.Error, or the error of ctx.
func (c *Client) Push(ctx context.Context, b *push.Batch) error {
	marks, err := c.Send(ctx, b)
	if aerr := ingestpb.Apply(b, marks); aerr != nil {
		return push.Errorf(push.Internal, "push: bad answer: %v", aerr)
	}
	return err
}

// Send is Push for several clients with one batch at a time: it returns the
// marks and leaves b as it is.
func (c *Client) Send(ctx context.Context, b *push.Batch) ([]*ingestpb.Refused, error) {
	req, err := ingestpb.NewRequest(b)
	if err != nil {
		return nil, push.Errorf(push.Internal, "%v", err)
	}
	if c.metadata != nil {
		kv, err := c.metadata()
		if err != nil {
			return nil, push.Errorf(push.Internal, "push: %v", err)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, kv...)
	}
	resp, err := c.send(ctx, req)
	if err != nil {
		if cause := ended(ctx, err); cause != nil {
			return nil, fmt.Errorf("push: %w: %s", cause, ingestpb.Error(err).Msg)
		}
		return nil, ingestpb.Error(err)
	}
	if r := resp.Rejected(); r != nil {
		return resp.Refused, r
	}
	return nil, nil
}

// maxAttempts bounds how many servers are asked to take one push.
const maxAttempts = 8

// send asks one server after the other, without waiting in between: how long to
// wait, and whether to, is for the caller to say.
func (c *Client) send(ctx context.Context, req *ingestpb.PushRequest) (*ingestpb.PushResponse, error) {
	ctx, visits := withVisits(ctx)
	for n := 1; ; n++ {
		resp, late, err := c.attempt(ctx, req, min(int(c.servers.Load()), maxAttempts)-n)
		if err == nil || ctx.Err() != nil || n == maxAttempts {
			return resp, err
		}
		switch {
		case late || visits.more() && transient(err):
		case n == 1 && status.Code(err) == codes.Unavailable && !ingestpb.FromServer(err):
			// The connection broke, and may be made anew.
		default:
			return nil, err
		}
	}
}

// transient reports whether another server may take what one has not. Of all
// other errors it would say the same.
func transient(err error) bool {
	c := status.Code(err)
	return c == codes.Unavailable || c == codes.DeadlineExceeded
}

// attempt makes a call. If there are others to ask it leaves them half of the
// time; late says that this was not enough.
func (c *Client) attempt(ctx context.Context, req *ingestpb.PushRequest, others int) (resp *ingestpb.PushResponse, late bool, err error) {
	if deadline, ok := ctx.Deadline(); ok && others > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	resp, err = c.ingest.Push(ctx, req)
	return resp, err != nil && ended(ctx, err) != nil, err
}

// ended returns why a call that failed with err ended if that was for its
// context. A server knows the deadline and may be the first to act on it.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c := status.Code(err); c != codes.Canceled && c != codes.DeadlineExceeded {
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < 50*time.Millisecond {
		return context.DeadlineExceeded
	}
	return nil
}
