package ingester

import (
	"github.com/loki-go/loki-go/storage/chunk"
)

// interim is how a block is compressed by a replica that another one goes before:
// most likely it is let go of before it is stored. Snappy takes a third of zstd's
// time. Only what is stored after all is compressed once more.
const interim = chunk.Snappy

// What a byte of an interim block takes when it is stored.
const (
	// usualShrink was measured: zstd against chunk.FastSnappy, in blocks of logs of
	// eleven programs, gives 0.60 to 0.70.
	usualShrink = 0.65
	// eagerShrink is put on what a sample gives. A chunk that is closed after the
	// first replica's was is harmless, as notices take blocks from open chunks; one
	// closed much earlier could have its turn before the first replica's is full.
	eagerShrink = 0.9
	// leastShrink bounds how large the local blocks of a chunk get if its lines
	// hardly differ.
	leastShrink = 0.125
)

// isCostly reports whether a codec takes so much more time than interim that it
// pays to put it off.
func isCostly(c chunk.Codec) bool {
	return c == chunk.ZSTD || c == chunk.GZIP || c == chunk.Flate
}

// codecFor returns how a block of c is compressed now. When ranks change, what is
// cut stays as it is.
func (i *Ingester) codecFor(c *openChunk) chunk.Codec {
	if i.copies.peers == nil || !isCostly(i.codec) {
		return i.codec
	}
	if rank, _ := i.copies.peers.Place(c.stream.token); rank == 0 {
		return i.codec
	}
	return interim
}

// compress makes w.data the content of a block of c, compressed, and returns with
// which codec. When an interim chunk has a quarter of its size, it compresses one
// block both ways to see when the chunk is full.
func (i *Ingester) compress(w *cutWork, c *openChunk, content []byte) (codec chunk.Codec, err error) {
	if codec = i.codecFor(c); codec == i.codec {
		w.data, err = codec.Compress(w.data[:0], content)
		return codec, err
	}
	w.data = chunk.FastSnappy(w.data[:0], content)
	c.stream.mu.Lock()
	sample := c.shrink == 0 && c.interim > 0 && c.stored() >= i.targetSize/4
	c.stream.mu.Unlock()
	if !sample {
		return codec, nil
	}
	if w.sample, err = i.codec.Compress(w.sample[:0], content); err != nil {
		return codec, err
	}
	shrink := eagerShrink * float64(len(w.sample)) / float64(max(len(w.data), 1))
	c.stream.mu.Lock()
	c.shrink = min(max(shrink, leastShrink), 1)
	c.stream.mu.Unlock()
	return codec, nil
}

// stored returns about what the blocks of c take when they are stored. Call with
// the stream's mutex held.
func (c *openChunk) stored() int {
	shrink := c.shrink
	if shrink == 0 {
		shrink = usualShrink
	}
	return c.compressed + int(float64(c.interim)*shrink)
}

// shrink returns what a byte of the interim blocks in bls takes when it is stored,
// measured with one of them. It depends on nothing but the blocks, as every try to
// store a chunk makes the same objects of it.
func (i *Ingester) shrink(w *flushWork, bls []block) (float64, error) {
	for k := range bls {
		b := &bls[k]
		if !b.interim || b.ref.Len() == 0 {
			continue
		}
		w.data = w.data[:0]
		if err := i.readStored(w, b); err != nil {
			return 0, err
		}
		return float64(len(w.data)) / float64(b.ref.Len()), nil
	}
	return 1, nil
}

// weight returns about what b takes when it is stored.
func (b *block) weight(shrink float64) int {
	if b.interim {
		return int(float64(b.ref.Len()) * shrink)
	}
	return b.ref.Len()
}

// content appends the content of b, whose data in the block file is data, to dst.
// The error is a *blocks.CorruptionError.
func (b *block) content(dst, data []byte) ([]byte, error) {
	dst, err := b.codec.Decompress(dst, data, maxContent(b))
	if err != nil {
		return dst, b.ref.Damaged(err.Error())
	}
	return dst, nil
}

// readStored appends b to w.data as it is stored.
func (i *Ingester) readStored(w *flushWork, b *block) (err error) {
	if !b.interim {
		w.data, err = i.blocks.Read(b.ref, w.data)
		return err
	}
	if w.raw, err = i.blocks.Read(b.ref, w.raw[:0]); err != nil {
		return err
	}
	if w.content, err = b.content(w.content[:0], w.raw); err != nil {
		return err
	}
	w.data, err = i.codec.Compress(w.data, w.content)
	return err
}
