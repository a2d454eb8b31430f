// Package pushclient pushes batches to servers of loki-go over gRPC. Its Push
// means what every Push in the system means (see docs/architecture.md), and
// its errors are those that the server's own Push returned.
//
// A Client keeps one connection to every server and spreads pushes over those
// that answer. A server that cannot take a push is followed by the next; a
// push that reached two of them is stored once, if the batch has an id. New
// dials nothing; Close ends the connections. All methods may be called
// concurrently.
package pushclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/proto/push"
)

// Options say where the servers are.
type Options struct {
	// Addresses are HOST:PORT. A single name stands for all its IP addresses; of
	// several names, each stands for one server.
	Addresses []string
	// TLS, if set, secures the connections.
	TLS credentials.TransportCredentials
	// UserAgent goes into every call.
	UserAgent string
}

// Client pushes to some servers.
type Client struct {
	conn     *grpc.ClientConn
	ingest   ingestpb.IngestClient
	attempts int
}

// How connections are made and kept. A server that comes back is found again
// within seconds; one that vanished without a word is given up after 20.
var (
	reconnect = grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
		MinConnectTimeout: 5 * time.Second,
	}
	alive = keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}
)

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
	creds := o.TLS
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithDisableServiceConfig(), // none from DNS
		grpc.WithConnectParams(reconnect),
		grpc.WithKeepaliveParams(alive),
		grpc.WithUserAgent(o.UserAgent),
	}
	target := "dns:///" + o.Addresses[0]
	if len(o.Addresses) > 1 {
		r := manual.NewBuilderWithScheme("servers")
		var s resolver.State
		for _, a := range o.Addresses {
			host, _, _ := net.SplitHostPort(a)
			s.Endpoints = append(s.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a, ServerName: host}}})
		}
		r.InitialState(s)
		target = "servers:///"
		opts = append(opts, grpc.WithResolvers(r))
	}
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("pushclient: %w", err)
	}
	return &Client{conn: conn, ingest: ingestpb.NewIngestClient(conn), attempts: max(2, len(o.Addresses))}, nil
}

// CheckAddress reports what is wrong with a HOST:PORT.
func CheckAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("address %q: want HOST:PORT", a)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("address %q: port must be a number from 1 to 65535", a)
	}
	if host == "" || strings.ContainsAny(host, "/ ,") {
		return fmt.Errorf("address %q: want HOST:PORT", a)
	}
	return nil
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
	var resp *ingestpb.PushResponse
	for range c.attempts {
		resp, err = c.ingest.Push(ctx, req)
		// Any server that is there would say the same of other errors. The next
		// attempt goes to the next server, at once: who waits is the caller.
		if status.Code(err) != codes.Unavailable {
			break
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("push: %w: %s", ctx.Err(), ingestpb.Error(err).Msg)
		}
		return nil, ingestpb.Error(err)
	}
	if r := resp.Rejected(); r != nil {
		return resp.Refused, r
	}
	return nil, nil
}
