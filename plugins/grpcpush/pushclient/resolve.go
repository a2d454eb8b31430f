package pushclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/resolver"
)

// scheme is that of the one target that a Client dials.
const scheme = "servers"

// How often names are looked up: at most, when connections break, and at
// least, so that new servers are found; and how long that may take.
const (
	lookupAtMost  = time.Second
	lookupAtLeast = 30 * time.Second
	lookupTimeout = 5 * time.Second
)

// resolverBuilder makes the resolver of one Client, and makes it again when
// gRPC wakes from long idleness.
type resolverBuilder struct {
	addresses  []string
	serverName string        // in the servers' certificates; empty: the host of the address
	servers    *atomic.Int64 // told how many servers there are
	lookup     func(ctx context.Context, host string) ([]string, error)
}

func (b *resolverBuilder) name(address string) string { return cmp.Or(b.serverName, address) }

func (b *resolverBuilder) Scheme() string { return scheme }

func (b *resolverBuilder) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &names{b: b, cc: cc, cancel: cancel, now: make(chan struct{}, 1), known: make([][]resolver.Address, len(b.addresses))}
	for i, a := range b.addresses {
		host, _, _ := net.SplitHostPort(a) // New has checked it
		if _, err := netip.ParseAddr(host); err == nil {
			r.known[i] = []resolver.Address{{Addr: a, ServerName: b.name(a)}}
		} else {
			r.hosts = append(r.hosts, i)
		}
	}
	r.wg.Go(func() { r.run(ctx) })
	return r, nil
}

// names looks up the hosts among the addresses of a Client, again and again.
type names struct {
	b      *resolverBuilder
	cc     resolver.ClientConn
	hosts  []int                // those of b.addresses that are names
	known  [][]resolver.Address // by address: what it stands for
	cancel context.CancelFunc
	now    chan struct{}
	wg     sync.WaitGroup
}

// ResolveNow is called by gRPC when a connection breaks.
func (r *names) ResolveNow(resolver.ResolveNowOptions) {
	select {
	case r.now <- struct{}{}:
	default:
	}
}

func (r *names) Close() {
	r.cancel()
	r.wg.Wait()
}

func (r *names) run(ctx context.Context) {
	for {
		err := r.look(ctx)
		if ctx.Err() != nil {
			return
		}
		r.tell(err)
		if len(r.hosts) == 0 {
			return
		}
		if !r.wait(ctx) {
			return
		}
	}
}

// wait returns when it is time to look again, or false at the end.
func (r *names) wait(ctx context.Context) bool {
	atMost := time.NewTimer(lookupAtMost)
	defer atMost.Stop()
	atLeast := time.NewTimer(lookupAtLeast)
	defer atLeast.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-atMost.C:
	}
	select {
	case <-ctx.Done():
		return false
	case <-atLeast.C:
	case <-r.now:
	}
	return true
}

// look looks all names up, at the same time. One that is not found keeps what
// it stood for.
func (r *names) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	errs := make([]error, len(r.hosts))
	var wg sync.WaitGroup
	for n, i := range r.hosts {
		wg.Go(func() {
			found, err := r.b.resolve(ctx, r.b.addresses[i])
			if err != nil {
				errs[n] = err
				return
			}
			r.known[i] = found
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (b *resolverBuilder) resolve(ctx context.Context, address string) ([]resolver.Address, error) {
	host, port, _ := net.SplitHostPort(address)
	ips, err := b.lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	var out []resolver.Address
	for _, ip := range ips {
		out = append(out, resolver.Address{Addr: net.JoinHostPort(ip, port), ServerName: b.name(address)})
	}
	return out, nil
}

// tell gives gRPC what is known.
func (r *names) tell(err error) {
	var all []resolver.Address
	for _, k := range r.known {
		for _, a := range k {
			if !slices.ContainsFunc(all, func(b resolver.Address) bool { return a.Addr == b.Addr && a.ServerName == b.ServerName }) {
				all = append(all, a)
			}
		}
	}
	if len(all) == 0 {
		if err == nil {
			err = errors.New("names without an address")
		}
		r.cc.ReportError(err)
		r.ResolveNow(resolver.ResolveNowOptions{}) // as soon as it may be
		return
	}
	r.b.servers.Store(int64(len(all)))
	_ = r.cc.UpdateState(resolver.State{Addresses: all}) // its error asks for ResolveNow, which comes anyway
}
