package fsck

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

// found is a chunk that is in the bucket.
type found struct {
	key     chunk.Key
	object  string
	days    []int64 // tables that it belongs to
	missing []int64 // those of them that do not list it
	head    *head   // what it says of itself; nil: it was not read
}

// head is what an index must know of a chunk.
type head struct {
	labels labels.Labels
	meta   index.ChunkMeta
}

// walk looks at the chunks of a tenant.
func (c *Checker) walk(ctx context.Context, p *part, tenant string) error {
	c.enter("look at chunks of tenant %s", tenant)
	streams, err := c.streams(ctx, p, tenant)
	if err != nil {
		return err
	}
	average, err := c.average(ctx, tenant, streams)
	if err != nil {
		return err
	}
	r := newRebuild(c, tenant)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Concurrency)
	for _, prefix := range group(nil, streams, p.prefix, average) {
		g.Go(func() error { return c.group(gctx, p, r, tenant+"/"+prefix) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return r.flush(ctx)
}

// streams lists the folders of streams, without the tenant's, and looks at what
// is beside them.
func (c *Checker) streams(ctx context.Context, p *part, tenant string) ([]string, error) {
	dir := tenant + "/"
	prefix := dir
	if !p.first() {
		prefix += p.prefix
	}
	keys, err := c.d.Bucket.List(ctx, prefix, false)
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	var out []string
	for _, key := range keys {
		name, folder := strings.CutSuffix(key[len(dir):], "/")
		switch {
		case folder && isFingerprint(name):
			if strings.HasPrefix(name, p.prefix) {
				out = append(out, name)
			}
		case !p.first():
		case folder:
			if err := c.folder(ctx, tenant, key); err != nil {
				return nil, err
			}
		case !strings.HasPrefix(key, checkPrefix):
			c.unknown(ownerOf(tenant), key, "a chunk has a folder of its stream")
		}
	}
	return out, nil
}

func isFingerprint(s string) bool {
	return s != "" && len(s) <= 16 && strings.Trim(s, hexDigits) == ""
}

// samples is how many streams are listed to know how many chunks they have.
const samples = 8

// average returns about how many chunks a stream has.
func (c *Checker) average(ctx context.Context, tenant string, streams []string) (int, error) {
	if len(streams) <= 2*samples {
		return maxGroup + 1, nil // each is a group
	}
	n := 0
	for i := range samples {
		keys, err := c.d.Bucket.List(ctx, tenant+"/"+streams[i*len(streams)/samples]+"/", true)
		if err != nil {
			return 0, fmt.Errorf("list a stream: %w", err)
		}
		n += len(keys)
	}
	return n/samples + 1, nil
}

// group appends prefixes that take in each of the streams, sorted, which begin
// with prefix, once, so that none has much more than maxGroup chunks.
func group(dst []string, streams []string, prefix string, average int) []string {
	switch {
	case len(streams) == 0:
		return dst
	case len(streams) == 1:
		return append(dst, streams[0]+"/")
	case prefix != "" && len(streams)*average <= maxGroup:
		return append(dst, prefix)
	}
	if streams[0] == prefix {
		dst, streams = append(dst, prefix+"/"), streams[1:]
	}
	for len(streams) > 0 {
		next := streams[0][:len(prefix)+1]
		n := 1
		for n < len(streams) && strings.HasPrefix(streams[n], next) {
			n++
		}
		dst, streams = group(dst, streams[:n], next, average), streams[n:]
	}
	return dst
}

// group looks at the chunks whose keys begin with prefix.
func (c *Checker) group(ctx context.Context, p *part, r *rebuild, prefix string) error {
	began := p.tick()
	keys, err := c.d.Bucket.List(ctx, prefix, true)
	if err != nil {
		return fmt.Errorf("list chunks: %w", err)
	}
	tenant := hashTenant(r.tenant)
	var mu sync.Mutex
	var candidates []*found
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Concurrency)
	for _, object := range keys {
		stream, _, ok := strings.Cut(object[len(r.tenant)+1:], "/")
		if !ok || !isFingerprint(stream) {
			continue // streams has seen it
		}
		k, why := c.parse(object)
		if why != "" {
			c.unknown(ownerOf(r.tenant), object, why)
			continue
		}
		f := &found{key: k, object: object}
		var listed []listing
		for d := storage.TableOf(k.From); d <= storage.TableOf(k.Through); d++ {
			f.days = append(f.days, d)
			if l := hashListing(tenant, d, k); p.set.has(l) {
				listed = append(listed, l)
			} else {
				f.missing = append(f.missing, d)
			}
		}
		c.chunks.Add(1)
		c.count(k.Tenant, func(n *Counts) { n.Chunks++ })
		if c.cfg.Quick && (len(f.missing) == 0 || !c.cfg.Repair) {
			p.set.claim(listed)
			if len(f.missing) > 0 {
				candidates = append(candidates, f)
			}
			continue
		}
		g.Go(func() error {
			state, err := c.examine(gctx, f)
			if err != nil || state == isGone {
				return err // what lists it is looked at later
			}
			p.set.claim(listed)
			if state == isGood && len(f.missing) > 0 {
				mu.Lock()
				candidates = append(candidates, f)
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.confirm(ctx, p, r, began, candidates)
}

// state is what a chunk turned out to be.
type state uint8

const (
	isGood state = iota
	isBad        // which was reported
	isGone
)

// acquire waits for room in slots.
func acquire(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// examine reads a chunk and compares it with its key.
func (c *Checker) examine(ctx context.Context, f *found) (state, error) {
	if err := acquire(ctx, c.slots); err != nil {
		return isGone, err
	}
	defer func() { <-c.slots }()
	var kind Kind
	var why string
	for range 2 { // what came may not be what is there
		object, err := c.d.Bucket.Get(ctx, f.object)
		if isNotFound(err) {
			return isGone, nil
		}
		if err != nil {
			return isGone, fmt.Errorf("read chunk %s: %w", f.object, err)
		}
		c.bytes.Add(int64(len(object)))
		c.count(f.key.Tenant, func(n *Counts) { n.ReadBytes += int64(len(object)) })
		if kind, why = f.check(object); kind == "" {
			return isGood, nil
		}
	}
	if len(f.missing) > 0 {
		why += "; no index file lists it"
		if len(f.missing) < len(f.days) {
			why += fmt.Sprintf(" in %s", tableNames(f.missing))
		}
	}
	c.report(Finding{Kind: kind, Tenant: f.key.Tenant, Key: f.object, Detail: why})
	return isBad, nil
}

// check compares an object with its key, and keeps what it says of itself if
// that is asked for.
func (f *found) check(object []byte) (Kind, string) {
	sum := chunk.Checksum(object)
	ch, err := chunk.Decode(object)
	switch {
	case err != nil && sum != f.key.Checksum:
		return DamagedChunk, fmt.Sprintf("%d bytes with checksum %x instead of %x: %v", len(object), sum, f.key.Checksum, err)
	case err != nil:
		return DamagedChunk, fmt.Sprintf("the checksum fits, but: %v", err)
	case sum != f.key.Checksum:
		return DamagedChunk, fmt.Sprintf("%d bytes with checksum %x instead of %x%s", len(object), sum, f.key.Checksum, badBlocks(ch))
	}
	if is := chunk.KeyOf(object, ch.Meta); is != f.key {
		return MisplacedChunk, "by its header it is " + is.String()
	}
	if len(f.missing) > 0 {
		f.head = &head{ch.Labels, index.ChunkMeta{
			MinTime: ch.From, MaxTime: ch.Through, KB: chunk.KB(ch.SymbolBytes(), ch.Blocks), Entries: uint32(ch.NumEntries()), Checksum: sum,
		}}
	}
	return "", ""
}

// badBlocks says which blocks of a chunk are damaged.
func badBlocks(ch *chunk.Chunk) string {
	var buf []byte
	var bad []string
	for i := range ch.Blocks {
		var err error
		if buf, err = ch.Content(i, buf[:0]); err != nil {
			bad = append(bad, fmt.Sprint(i))
		}
	}
	if len(bad) == 0 {
		return ", in its metadata"
	}
	return fmt.Sprintf(", in block %s of %d", strings.Join(bad, ", "), len(ch.Blocks))
}

func tableNames(days []int64) string {
	var b strings.Builder
	for i, d := range days {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strings.TrimSuffix(strings.TrimPrefix(storage.TableDir(d), indexRoot), "/"))
	}
	return b.String()
}
