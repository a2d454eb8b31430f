package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/ring"
)

// Pool has the connections to other instances. Its methods may be called
// concurrently.
type Pool struct {
	cfg  Config
	dial []grpc.DialOption
	m    *clientMetrics

	mu      sync.Mutex
	closed  bool
	conns   map[string]*conn      // by instance
	retired map[*conn]*time.Timer // those of conns whose instance has left the ring; what ends them
}

// NewPool returns a Pool without connections. cfg must be valid.
func NewPool(cfg Config, reg prometheus.Registerer) (*Pool, error) {
	p := &Pool{cfg: cfg, conns: make(map[string]*conn), retired: make(map[*conn]*time.Timer)}
	var err error
	if p.m, err = newClientMetrics(reg); err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if cfg.TLS.Enabled {
		tc, err := cfg.TLS.Config()
		if err != nil {
			return nil, fmt.Errorf("cluster.tls: %w", err)
		}
		creds = credentials.NewTLS(tc)
	}
	p.dial = []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: cfg.DialTimeout,
		}),
		// Servers of ours allow a ping every 10 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithWriteBufferSize(128 << 10),
		grpc.WithUserAgent("loki-go"),
	}
	if cfg.Secret != "" {
		p.dial = append(p.dial, grpc.WithPerRPCCredentials(secret(cfg.Secret)))
	}
	return p, nil
}

// secret is what a call shows.
type secret string

func (s secret) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{secretKey: string(s)}, nil
}

// RequireTransportSecurity says that the network may be trusted.
func (s secret) RequireTransportSecurity() bool { return false }

// Replica is what stores pushes in an instance, as gateway.Replica does.
type Replica interface {
	Push(ctx context.Context, b *push.Batch) error
}

// Replica returns the replica that an instance is. It does not block.
func (p *Pool) Replica(in ring.Instance) (Replica, error) { return p.conn(in) }

// Source returns what reads from an instance. It does not block.
func (p *Pool) Source(in ring.Instance) (Source, error) {
	c, err := p.conn(in)
	if err != nil {
		return nil, err
	}
	return remote{c}, nil
}

// conn returns the connection to this start of an instance.
func (p *Pool) conn(in ring.Instance) (*conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errors.New("cluster: the process is about to end")
	}
	old := p.conns[in.ID]
	if old != nil && old.in.Generation == in.Generation && old.in.Addr == in.Addr {
		return old, nil
	}
	if old != nil && old.in.Generation > in.Generation {
		return nil, fmt.Errorf("instance %s was started anew since", in.ID)
	}
	cc, err := grpc.NewClient("passthrough:///"+in.Addr, p.dial...)
	if err != nil {
		return nil, fmt.Errorf("instance %s at %s: %w", in.ID, in.Addr, err)
	}
	if old != nil {
		p.drop(old)
	}
	c := newConn(in, p.cfg, cc, p.m)
	p.conns[in.ID] = c
	p.m.connections.Set(float64(len(p.conns)))
	return c, nil
}

// drop must be called under mu.
func (p *Pool) drop(c *conn) {
	p.keep(c)
	delete(p.conns, c.in.ID)
	p.m.connections.Set(float64(len(p.conns)))
	c.close()
}

// Retain closes the connections to instances that are not in r, if they do not
// come back within cluster.query-timeout: one that has left may still answer
// what it was asked, and one that lost its place in the ring, but lives, enters
// again. It must be called whenever the ring changes.
func (p *Pool) Retain(r *ring.Ring) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, c := range p.conns {
		switch {
		case r.Find(id) >= 0:
			p.keep(c)
		case p.retired[c] == nil:
			var t *time.Timer
			t = time.AfterFunc(p.cfg.QueryTimeout, func() { p.expire(c, &t) })
			p.retired[c] = t
		}
	}
}

// keep ends the retirement of c, if it is in one. It must be called under mu.
func (p *Pool) keep(c *conn) {
	if t := p.retired[c]; t != nil {
		t.Stop()
		delete(p.retired, c)
	}
}

// expire drops c when the time of t has come, unless it has come back. t is to
// be read under mu.
func (p *Pool) expire(c *conn, t **time.Timer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired[c] == *t {
		p.drop(c)
	}
}

// Close ends all connections; what is under way fails.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.conns {
		p.drop(c)
	}
}

// replicateDesc describes the call for pushes.
var replicateDesc = grpc.StreamDesc{StreamName: "Replicate", ServerStreams: true, ClientStreams: true}

// maxMessage is how much goes into one message; larger pushes take several. gRPC
// servers take 4 MiB if nobody has told them otherwise.
const maxMessage = 3 << 20

// pieceHead is what comes before a piece of a large push in its message.
func pieceHead(piece []byte, more bool) []byte {
	var b []byte
	if more {
		b = protowire.AppendTag(b, pieceMore, protowire.VarintType)
		b = protowire.AppendVarint(b, 1)
	}
	b = protowire.AppendTag(b, pieceData, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(len(piece)))
}

// Fields of ingestpb.Replications.
const (
	pieceData = 2
	pieceMore = 3
)
