package gateway

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/proto/push"
)

// check validates one batch.
type check struct {
	g   *Gateway
	tn  *tenantState
	lim *limits.Limits
	b   *push.Batch
	now time.Time
	rej push.Rejected

	oldest, newest int64 // acceptable times
	maxLine        uint32

	accepted int     // entries
	bytes    int     // lines and metadata of those
	received int     // lines and metadata of all that could be measured
	streams  []rated // with a stream rate: what to charge
}

// rated is the part of a push that one stream's rate is charged for.
type rated struct {
	stream int
	info   *streamInfo
	count  int
	bytes  int
}

func (g *Gateway) newCheck(tn *tenantState, lim *limits.Limits, b *push.Batch, now time.Time) *check {
	c := g.checks.Get().(*check)
	*c = check{g: g, tn: tn, lim: lim, b: b, now: now, streams: c.streams[:0]}
	// The extremes are what the decoder makes of times that cannot be said in
	// nanoseconds; they are never acceptable.
	c.oldest, c.newest = math.MinInt64+1, math.MaxInt64-1
	t := now.UnixNano()
	if lim.RejectOldSamples {
		c.oldest = t - int64(lim.RejectOldSamplesMaxAge)
	}
	if grace := int64(lim.CreationGracePeriod); grace < c.newest-t {
		c.newest = t + grace
	}
	c.maxLine = math.MaxUint32
	if lim.MaxLineSize > 0 && lim.MaxLineSize < math.MaxUint32 {
		c.maxLine = uint32(lim.MaxLineSize)
	}
	return c
}

// release gives c back; its rej must not be used afterwards.
func (c *check) release() {
	if cap(c.streams) > maxPooledStreams {
		return
	}
	clear(c.streams)
	*c = check{g: c.g, streams: c.streams[:0]}
	c.g.checks.Put(c)
}

// maxPooledStreams bounds what a check may keep: 16,384 streams take 640 KiB.
const maxPooledStreams = 1 << 14

// run sets labels and tokens, and marks what breaks a rule.
func (c *check) run() {
	hits := 0
	for i := range c.b.Streams {
		s := &c.b.Streams[i]
		if s.Reject.Retryable() {
			s.Reject = push.OK // by an earlier try, which has failed as a whole
		}
		if s.Reject != push.OK {
			continue // refused before it came here, and counted there
		}
		info, hit := c.g.labels.lookup(c.tn, c.lim, c.b.Bytes(s.RawLabels))
		if hit {
			hits++
		}
		s.Labels, s.Token = info.labels, info.token
		if info.reject != push.OK {
			c.rejectStream(s, info)
			continue
		}
		count, size := c.entries(s)
		c.accepted += count
		c.bytes += size
		if c.lim.PerStreamRateLimit > 0 && count > 0 {
			c.streams = append(c.streams, rated{i, info, count, size})
		}
	}
	c.g.m.cacheHits.Add(float64(hits))
	c.g.m.cacheMisses.Add(float64(len(c.b.Streams) - hits))
}

func (c *check) rejectStream(s *push.Stream, info *streamInfo) {
	s.Reject = info.reject
	size := 0
	entries := c.b.StreamEntries(s)
	for j := range entries {
		size += entrySize(c.b, &entries[j])
	}
	c.received += size
	c.rej.Add(info.reject, clip(info.raw), int(s.Count), size, func() string { return info.text })
}

// entrySize returns the bytes of an entry that count for rates.
func entrySize(b *push.Batch, e *push.Entry) int {
	_, meta := metaSize(b.Bytes(e.Meta))
	return int(e.Line.Len) + meta
}

// group returns the group of a reason, or nil.
func group(rej *push.Rejected, r push.Reason) *push.RejectGroup {
	for i := range rej.Groups {
		if rej.Groups[i].Reason == r {
			return &rej.Groups[i]
		}
	}
	return nil
}

// entries checks the entries of a stream. It returns how many are good, and
// their bytes.
func (c *check) entries(s *push.Stream) (count, size int) {
	if c.lim.IncrementDuplicateTimestamp {
		c.spread(s)
	}
	entries := c.b.StreamEntries(s)
	for j := range entries {
		e := &entries[j]
		if e.Meta.Len == 0 && e.TS >= c.oldest && e.TS <= c.newest && e.Line.Len <= c.maxLine && e.Reject == push.OK {
			count++
			size += int(e.Line.Len)
			continue
		}
		if n, ok := c.entry(s, e); ok {
			count++
			size += n
		}
	}
	c.received += size
	return count, size
}

// entry checks an entry that has metadata or breaks a rule. It returns its
// size.
func (c *check) entry(s *push.Stream, e *push.Entry) (size int, ok bool) {
	if e.Reject.Retryable() {
		e.Reject = push.OK // by an earlier try
	}
	if e.Reject != push.OK {
		return 0, false // refused before it came here, and counted there
	}
	pairs, meta := metaSize(c.b.Bytes(e.Meta))
	if e.Line.Len > c.maxLine && c.lim.MaxLineSizeTruncate && e.TS >= c.oldest && e.TS <= c.newest {
		c.truncate(e)
	}
	size = int(e.Line.Len) + meta
	lim := c.lim
	reason := push.OK
	switch {
	case e.TS < c.oldest:
		reason = push.TooOld
	case e.TS > c.newest:
		reason = push.TooNew
	case e.Line.Len > c.maxLine:
		reason = push.LineTooLong
	case pairs == 0:
	case !lim.AllowStructuredMetadata:
		reason = push.MetadataDisallowed
	case lim.MaxStructuredMetadataSize > 0 && meta > int(lim.MaxStructuredMetadataSize):
		reason = push.MetadataTooLarge
	case lim.MaxStructuredMetadataEntriesCount > 0 && pairs > lim.MaxStructuredMetadataEntriesCount:
		reason = push.MetadataTooMany
	}
	if reason == push.OK {
		return size, true
	}
	e.Reject = reason
	c.received += size
	c.rej.Add(reason, s.Labels, 1, size, func() string { return c.why(reason, s, e) })
	if reason == push.TooOld {
		group(&c.rej, reason).OldestOK = c.oldest
	}
	return 0, false
}

// truncate cuts a line to what is allowed.
func (c *check) truncate(e *push.Entry) {
	c.tn.metrics.truncated.Inc()
	e.Line.Len = uint32(cutAt(c.b.Bytes(e.Line), int(c.maxLine)))
	c.b.Stale = true
}

// cutAt returns n, or the place shortly before it where cutting line does not
// divide a character. line must be longer than n.
func cutAt(line []byte, n int) int {
	at := n
	for back := 0; back < utf8.UTFMax-1 && at > 0 && !utf8.RuneStart(line[at]); back++ {
		at--
	}
	if !utf8.RuneStart(line[at]) {
		return n // no UTF-8
	}
	return at
}

// spread moves entries that have their predecessor's time, but another line,
// behind it.
func (c *check) spread(s *push.Stream) {
	entries := c.b.StreamEntries(s)
	if len(entries) == 0 {
		return
	}
	was, is := entries[0].TS, entries[0].TS // the predecessor's time as sent and as moved
	for j := 1; j < len(entries); j++ {
		prev, e := &entries[j-1], &entries[j]
		sent := e.TS
		if e.TS >= was && e.TS <= is && is < math.MaxInt64-1 {
			e.TS = is
			if !bytes.Equal(c.b.Bytes(prev.Line), c.b.Bytes(e.Line)) {
				e.TS++
			}
			c.b.Stale = c.b.Stale || e.TS != sent
		}
		was, is = sent, e.TS
	}
}

// limit charges the tenant's rate and the streams'. An error refuses the whole
// batch.
func (c *check) limit() error {
	now := c.now.UnixNano()
	rate, burst := c.lim.Rate()
	if rate > 0 {
		if wait, ok := c.tn.bucket.take(now, float64(c.bytes), rate, burst); !ok {
			e := push.Errorf(push.RateLimited,
				"ingestion rate limit exceeded for user %s (limit: %d bytes/sec) while attempting to ingest '%d' lines totaling '%d' bytes, reduce log volume or contact your Loki administrator to see if the limit can be increased",
				c.tn.name, int64(rate), c.accepted, c.bytes)
			e.RetryAfter = wait
			return e
		}
	}
	before := c.bytes
	for i := range c.streams {
		c.limitStream(now, &c.streams[i])
	}
	if rate > 0 && c.bytes < before {
		c.tn.bucket.give(float64(before - c.bytes))
	}
	return nil
}

func (c *check) limitStream(now int64, r *rated) {
	rate, burst := float64(c.lim.PerStreamRateLimit), float64(c.lim.PerStreamRateLimitBurst)
	if _, ok := r.info.bucket.take(now, float64(r.bytes), rate, burst); ok {
		return
	}
	// Not the whole stream may be left: mark what is.
	s := &c.b.Streams[r.stream]
	entries := c.b.StreamEntries(s)
	if r.count == len(entries) {
		s.Reject = push.StreamRateLimit
	} else {
		for j := range entries {
			if entries[j].Reject == push.OK {
				entries[j].Reject = push.StreamRateLimit
			}
		}
	}
	c.accepted -= r.count
	c.bytes -= r.bytes
	c.rej.Add(push.StreamRateLimit, s.Labels, r.count, r.bytes, func() string {
		return fmt.Sprintf("Per stream rate limit exceeded (limit: %s/sec) while attempting to ingest for stream '%s' totaling %s, consider splitting a stream via additional labels or contact your Loki administrator to see if the limit can be increased",
			humanBytes(int64(c.lim.PerStreamRateLimit)), s.Labels, humanBytes(int64(r.bytes)))
	})
}

// humanBytes writes a size as Loki does in this message: 3MB, 8238B.
func humanBytes(n int64) string {
	units := [...]string{"B", "KB", "MB", "GB", "TB"}
	i := 0
	for i+1 < len(units) && n != 0 && n%1024 == 0 {
		n /= 1024
		i++
	}
	return fmt.Sprintf("%d%s", n, units[i])
}

// store sends what is accepted to the ingesters, under an id for just that.
func (c *check) store(ctx context.Context) error {
	b := c.b
	if c.accepted < len(b.Entries) {
		defer func(id push.ID) { b.ID = id }(b.ID)
		b.ID = acceptedID(b)
	}
	return c.g.send(ctx, b, c.bytes, &c.rej)
}
