package lokigrpc

import (
	"context"
	"encoding/json"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/storage/chunk"
)

// fingerprints is a range of streams by their fingerprints, min and max in it.
type fingerprints struct {
	Min uint64 `json:"min"`
	Max uint64 `json:"max"`
}

// sharded returns a source that has the streams of a shard alone. Loki's notations
// are N_of_M, M being a power of two, which means the streams whose fingerprints
// begin with N, and {"bounds":{"min":A,"max":B}}.
func sharded(src query.Source, shards []string) (query.Source, error) {
	if len(shards) == 0 {
		return src, nil
	}
	if len(shards) > 1 {
		return nil, badRequest("only one shard per ingester query is supported")
	}
	f, ok := parseShard(shards[0])
	if !ok {
		return nil, badRequest("%.100q is no shard", shards[0])
	}
	return shardSource{src, f}, nil
}

func parseShard(s string) (f fingerprints, ok bool) {
	if strings.HasPrefix(s, "{") {
		var v struct{ Bounds *fingerprints }
		err := json.Unmarshal([]byte(s), &v)
		if err != nil || v.Bounds == nil || v.Bounds.Min > v.Bounds.Max {
			return f, false
		}
		return *v.Bounds, true
	}
	x, y, _ := strings.Cut(s, "_of_")
	n, err1 := strconv.ParseUint(x, 10, 32)
	of, err2 := strconv.ParseUint(y, 10, 32)
	if err1 != nil || err2 != nil || bits.OnesCount64(of) != 1 || of < 2 || n >= of {
		return f, false
	}
	shift := 64 - bits.TrailingZeros64(of)
	return fingerprints{n << shift, n<<shift | (1<<shift - 1)}, true
}

// shardSource is a part of a source.
type shardSource struct {
	query.Source
	f fingerprints
}

func (s shardSource) not(ls labels.Labels) bool {
	fp := ls.Fingerprint()
	return fp < s.f.Min || fp > s.f.Max
}

func (s shardSource) Select(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error) {
	all, err := s.Source.Select(ctx, tenant, ms, from, through)
	return slices.DeleteFunc(all, func(x chunk.Series) bool { return s.not(x.Labels) }), err
}

func (s shardSource) LabelSets(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]labels.Labels, error) {
	all, err := s.Source.LabelSets(ctx, tenant, ms, from, through)
	return slices.DeleteFunc(all, s.not), err
}
