package gateway

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"unsafe"

	"github.com/cespare/xxhash/v2"

	"github.com/loki-go/loki-go/gateway/internal/cache"
	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
)

// maxTenants bounds how many tenants are remembered. One that is forgotten
// starts again with a full rate bucket.
const maxTenants = 10_000

// tenantState is what a gateway remembers about a tenant.
type tenantState struct {
	name    string
	seed    uint64 // keeps tenants apart in the label cache
	bucket  bucket
	dead    bucket // of dead letters
	metrics *tenantMetrics
}

func (g *Gateway) tenant(name string) *tenantState {
	return g.tenants.GetOrPut(name, 1, func() *tenantState {
		return &tenantState{name: name, seed: rand.Uint64(), metrics: g.m.tenant(name)}
	})
}

// streamInfo is what a label text means for a tenant under certain limits.
type streamInfo struct {
	tenant *tenantState
	limits *limits.Limits
	raw    string

	labels string // canonical
	token  uint32
	reject push.Reason
	text   string // of the refusal
	bucket bucket // the stream's rate
}

// labelShards spreads the locks; it is a power of two.
const labelShards = 16

// labelCache remembers streamInfos by tenant and label text. An entry counts
// only under the limits that it was made under: changed ones have another
// address.
type labelCache struct {
	shards [labelShards]*cache.Cache[uint64, *streamInfo]
}

func newLabelCache(limit int64) *labelCache {
	c := &labelCache{}
	for i := range c.shards {
		c.shards[i] = cache.New[uint64, *streamInfo](limit / labelShards)
	}
	return c
}

func (c *labelCache) bytes() int64 {
	n := int64(0)
	for _, s := range c.shards {
		n += s.Size()
	}
	return n
}

// lookup returns the meaning of raw, and whether it was remembered. A hit
// allocates nothing.
func (c *labelCache) lookup(tn *tenantState, lim *limits.Limits, raw []byte) (info *streamInfo, hit bool) {
	h := xxhash.Sum64(raw) ^ tn.seed
	shard := c.shards[h%labelShards]
	if info, ok := shard.Get(h); ok && info.tenant == tn && info.limits == lim && info.raw == string(raw) {
		return info, true
	}
	info = newStreamInfo(tn, lim, string(raw))
	size := int64(unsafe.Sizeof(*info)) + mapOverhead + int64(len(info.raw)+len(info.labels)+len(info.text))
	shard.Put(h, info, size)
	return info, false
}

// mapOverhead is about what a map takes for an entry of 32 bytes.
const mapOverhead = 64

const (
	serviceName    = "service_name"
	unknownService = "unknown_service"
)

func newStreamInfo(tn *tenantState, lim *limits.Limits, raw string) *streamInfo {
	info := &streamInfo{tenant: tn, limits: lim, raw: raw}
	ls, err := labels.Parse(raw)
	var dup *labels.DuplicateError
	switch {
	case errors.As(err, &dup):
		info.refuse(push.DuplicateLabel, "stream '%s' has duplicate label name: '%s'", clip(raw), clip(dup.Name))
		return info
	case err != nil:
		info.refuse(push.InvalidLabels, "%v", err)
		return info
	}
	ls = discover(ls, lim.DiscoverServiceName)
	text := ls.String()
	info.checkLabels(ls, text)
	if info.reject == push.OK {
		info.labels, info.token = text, labels.Token(tn.name, text)
	}
	return info
}

// discover adds service_name from the first of names that ls has.
func discover(ls labels.Labels, names []string) labels.Labels {
	if len(names) == 0 || ls.Get(serviceName) != "" {
		return ls
	}
	value := unknownService
	for _, n := range names {
		if v := ls.Get(n); v != "" {
			value = v
			break
		}
	}
	ls = append(ls, labels.Label{Name: serviceName, Value: value})
	ls.Sort()
	return ls
}

func (s *streamInfo) refuse(r push.Reason, format string, args ...any) {
	s.reject, s.text = r, fmt.Sprintf(format, args...)
}

// checkLabels applies Loki's rules in Loki's order.
func (s *streamInfo) checkLabels(ls labels.Labels, text string) {
	if len(ls) == 0 {
		s.refuse(push.MissingLabels, "error at least one label pair is required per stream")
		return
	}
	n := len(ls)
	if ls.Get(serviceName) != "" {
		n--
	}
	if n > s.limits.MaxLabelNamesPerSeries {
		s.refuse(push.MaxLabelNames, "entry for stream '%s' has %d label names; limit %d",
			clip(text), n, s.limits.MaxLabelNamesPerSeries)
		return
	}
	for _, l := range ls {
		if len(l.Name) > s.limits.MaxLabelNameLength {
			s.refuse(push.LabelNameTooLong, "stream '%s' has label name too long: '%s'", clip(text), clip(l.Name))
			return
		}
		if len(l.Value) > s.limits.MaxLabelValueLength {
			s.refuse(push.LabelValueTooLong, "stream '%s' has label value too long: '%s'", clip(text), clip(l.Value))
			return
		}
	}
}

// clip keeps hostile texts out of answers; those within the default limits are
// left whole.
func clip(s string) string {
	const most = 16 << 10
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
