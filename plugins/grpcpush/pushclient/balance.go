package pushclient

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
)

// balancerName is how gRPC finds the balancer; it has one registry of them for
// the process and no other way to be given one.
const balancerName = "loki_go_servers"

func init() { balancer.Register(base.NewBalancerBuilder(balancerName, pickerBuilder{}, base.Config{})) }

type pickerBuilder struct{}

func (pickerBuilder) Build(info base.PickerBuildInfo) balancer.Picker {
	if len(info.ReadySCs) == 0 {
		return base.NewErrPicker(balancer.ErrNoSubConnAvailable)
	}
	p := &picker{}
	for sc := range info.ReadySCs {
		p.conns = append(p.conns, sc)
	}
	return p
}

// picker takes the connected servers by turns, and for one push first those
// that have not been asked yet: with many pushes at the same time, turns alone
// might lead to the same server twice.
type picker struct {
	conns []balancer.SubConn
	next  atomic.Uint32
}

func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	n := uint32(len(p.conns))
	start := p.next.Add(1)
	v, _ := info.Ctx.Value(visitsKey{}).(*visits)
	for i := range n {
		if sc := p.conns[(start+i)%n]; v.visit(sc, p) {
			return balancer.PickResult{SubConn: sc}, nil
		}
	}
	// gRPC asks again for the same call when a connection broke meanwhile.
	return balancer.PickResult{SubConn: p.conns[start%n]}, nil
}

type visitsKey struct{}

// visits are the servers that one push has been to.
type visits struct {
	mu   sync.Mutex
	been []balancer.SubConn
	last *picker
}

func withVisits(ctx context.Context) (context.Context, *visits) {
	v := &visits{}
	return context.WithValue(ctx, visitsKey{}, v), v
}

// visit reports whether sc is new to the push, and remembers it.
func (v *visits) visit(sc balancer.SubConn, p *picker) bool {
	if v == nil {
		return true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last = p
	if slices.Contains(v.been, sc) {
		return false
	}
	v.been = append(v.been, sc)
	return true
}

// more reports whether there are connected servers that the push has not been
// to.
func (v *visits) more() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last != nil && slices.ContainsFunc(v.last.conns, func(sc balancer.SubConn) bool { return !slices.Contains(v.been, sc) })
}
