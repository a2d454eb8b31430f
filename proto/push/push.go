// Package push is the form in which log entries travel through loki-go: from a
// receiver to the distributor, over gRPC to ingesters, and into the WAL.
//
// A Batch is one tenant's push. Its entries are made once, at the edge, as
// Loki's protobuf (logproto.PushRequest); everything after that refers to
// those bytes by offset. Data holds the decoded protobuf, Body the same bytes
// compressed, which is what gRPC and the WAL carry. A receiver of Loki pushes
// keeps the body that its client sent; other receivers use a Builder.
//
// A Batch has one owner at a time. Streams, Entries and Data may be read from
// several goroutines while nobody writes. Get takes a batch from a pool,
// Release gives it back; no span, slice or string that points into it may be
// used afterwards.
package push

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/s2"
)

// Span is a range of bytes in Batch.Data.
type Span struct{ Off, Len uint32 }

// Entry is one log entry. Line and Meta refer to Batch.Data.
type Entry struct {
	TS     int64 // nanoseconds since the epoch
	Line   Span
	Meta   Span // LabelPair fields as in protobuf, names normalised and sorted; see Pairs
	Reject Reason
}

// Stream is a run of entries with one label set: entries [First, First+Count).
type Stream struct {
	RawLabels Span   // label text as the client sent it
	Labels    string // canonical text; set by the distributor, lives longer than the batch
	Token     uint32 // ring token; set by the distributor
	First     uint32
	Count     uint32
	Raw       Span   // the whole Stream message in Data, without its tag and length
	Reject    Reason // set: the whole stream was refused
}

// ID identifies a push across retries. The zero ID means that there is none.
type ID [16]byte

// Part names a push as a gateway sent it to a replica set: by a number of the
// gateway's start and its own. All who get it get the same entries under it. The
// zero Part means that there is one replica, or that the sender has none.
type Part struct{ Gateway, Number uint64 }

// Codec is the compression of Body.
type Codec uint8

const (
	// CodecNone: Body is the protobuf itself.
	CodecNone Codec = 0
	// CodecSnappy: Body is one block in snappy's raw format or in S2, its
	// superset (one decoder reads both).
	CodecSnappy Codec = 1
)

// Batch is one push of one tenant.
type Batch struct {
	Tenant   string
	Receiver string // which protocol it came by: "loki", "forward", ...
	ID       ID
	Part     Part
	Streams  []Stream
	Entries  []Entry
	Data     []byte
	Body     []byte
	Codec    Codec
	// Stale says that Entries no longer agree with Body (a line was cut short,
	// say); Rebuild makes a new Body.
	Stale bool

	// KeepRefused says that the protocol cannot refuse single entries: those
	// refused for good are stored in the tenant's dead-letter stream before Push
	// returns.
	KeepRefused bool
	Dead        []Dead // pieces of input that could not become entries; see Bury
	DeadLeft    int    // pieces that were beyond the bounds of Bury

	dead      []byte // the block that the next piece is copied to
	deadBytes int    // of all pieces, with their texts

	body []byte     // buffer that Body uses when the batch owns it
	norm normaliser // scratch
	most int        // during a decode: how many entries or streams may come of Data
}

var pool = sync.Pool{New: func() any { return new(Batch) }}

// Get returns an empty batch.
func Get() *Batch { return pool.Get().(*Batch) }

// maxPooled bounds what a pooled batch may keep allocated.
const maxPooled = 16 << 20

// Release empties b and gives it back.
func (b *Batch) Release() {
	if cap(b.Data) > maxPooled || cap(b.body) > maxPooled || cap(b.Entries) > maxPooled/32 ||
		cap(b.Streams) > maxPooled/64 || b.norm.size() > maxPooled {
		return
	}
	clear(b.Streams)
	clear(b.Dead)
	*b = Batch{
		Streams: b.Streams[:0], Entries: b.Entries[:0], Data: b.Data[:0], Dead: b.Dead[:0],
		body: b.body[:0], dead: b.dead[:0], norm: b.norm,
	}
	pool.Put(b)
}

// Bytes returns the bytes that s covers. They belong to the batch.
func (b *Batch) Bytes(s Span) []byte { return b.Data[s.Off : s.Off+s.Len : s.Off+s.Len] }

// StreamEntries returns the entries of s.
func (b *Batch) StreamEntries(s *Stream) []Entry { return b.Entries[s.First : s.First+s.Count] }

// Size limits of a decode.
const (
	// MaxData is the largest decoded batch: spans are 32 bits wide, and half of
	// that leaves room for normalised metadata behind the protobuf.
	MaxData = 1 << 30

	maxSpan = 1<<32 - 1
)

// ErrTooLarge is returned when a body would decode to more than the limit.
var ErrTooLarge = errors.New("push: decoded body exceeds the limit")

// SetBody decompresses body into Data and decodes it. body must stay valid and
// unchanged until Release. maxDecoded bounds the decoded size in bytes (0 means
// MaxData). Errors are ErrTooLarge or describe a malformed body.
func (b *Batch) SetBody(body []byte, codec Codec, maxDecoded int) error {
	if maxDecoded <= 0 || maxDecoded > MaxData {
		maxDecoded = MaxData
	}
	switch codec {
	case CodecNone:
		if len(body) > maxDecoded {
			return ErrTooLarge
		}
		b.Data = append(b.Data[:0], body...)
	case CodecSnappy:
		n, err := DecodedLen(body)
		if err != nil {
			return fmt.Errorf("push: snappy: %w", err)
		}
		if n > maxDecoded {
			return ErrTooLarge
		}
		b.Data = grow(b.Data[:0], n+n/16+64)[:n]
		if b.Data, err = s2.Decode(b.Data, body); err != nil {
			return fmt.Errorf("push: snappy: %w", err)
		}
	default:
		return fmt.Errorf("push: unknown body codec %d", codec)
	}
	b.Body, b.Codec = body, codec
	return b.decode()
}

func grow(s []byte, n int) []byte {
	if cap(s) >= n {
		return s[:0]
	}
	return make([]byte, 0, n)
}

// SetData is SetBody for a receiver that already has the plain protobuf in a
// buffer of its own: it takes data over and compresses it into Body.
func (b *Batch) SetData(data []byte) error {
	if len(data) > MaxData {
		return ErrTooLarge
	}
	b.Data = data
	if err := b.decode(); err != nil {
		return err
	}
	b.compress(len(data))
	return nil
}

// compress makes Body from the first n bytes of Data.
func (b *Batch) compress(n int) {
	if need := s2.MaxEncodedLen(n); cap(b.body) < need {
		b.body = make([]byte, 0, need)
	}
	// S2's own format is 2 % smaller and takes a quarter more time.
	b.body = s2.EncodeSnappy(b.body[:cap(b.body)], b.Data[:n])
	b.Body, b.Codec, b.Stale = b.body, CodecSnappy, false
}

// Rebuild encodes Streams and Entries anew into Data and Body. Entries and
// streams marked as refused are left out; buried pieces stay. Use it after
// changing a span.
func (b *Batch) Rebuild() {
	bl := NewBuilder(Get())
	defer bl.b.Release()
	var idx []int
	for i := range b.Streams {
		s := &b.Streams[i]
		idx = append(idx, -1)
		if s.Reject != OK {
			continue
		}
		labels := []byte(s.Labels)
		if s.Labels == "" {
			labels = b.Bytes(s.RawLabels)
		}
		idx[i] = bl.Stream(labels)
		for j := range b.StreamEntries(s) {
			e := &b.Entries[int(s.First)+j]
			if e.Reject != OK {
				continue
			}
			for p := b.Pairs(e); p.Next(); {
				bl.Pair(p.Name, p.Value)
			}
			bl.EntryExact(idx[i], e.TS, b.Bytes(e.Line))
		}
	}
	bl.Finish()
	n := bl.b
	b.Data, n.Data = n.Data, b.Data
	b.Entries, n.Entries = n.Entries, b.Entries
	b.body, n.body = n.body, b.body
	for j, k := range idx {
		if k >= 0 {
			n.Streams[k].Labels, n.Streams[k].Token = b.Streams[j].Labels, b.Streams[j].Token
		}
	}
	b.Streams, n.Streams = n.Streams, b.Streams
	b.Body, b.Codec, b.Stale = b.body, CodecSnappy, false
}

// KeepRetryable leaves in b the entries that are marked with a refusal which may
// pass, unmarked, and returns their number. It is for who sends the batch again
// after a *Rejected: all else is settled by then, stored or refused for good,
// and so are buried pieces. Where it returns 0 the batch is as it was. What is
// left has no ID, as that of the batch stood for all of it.
func (b *Batch) KeepRetryable() int {
	n := 0
	for i := range b.Streams {
		s := &b.Streams[i]
		for _, e := range b.StreamEntries(s) {
			if mayPass(s, &e) {
				n++
			}
		}
	}
	if n == 0 {
		return 0
	}
	for i := range b.Streams {
		s := &b.Streams[i]
		entries := b.StreamEntries(s)
		for j := range entries {
			e := &entries[j]
			if mayPass(s, e) {
				e.Reject = OK
			} else {
				e.Reject = Malformed // any reason: it is left out
			}
		}
		s.Reject = OK
	}
	clear(b.Dead)
	b.Dead, b.DeadLeft, b.deadBytes, b.ID = b.Dead[:0], 0, 0, ID{}
	b.Rebuild()
	return n
}

// mayPass reports whether an entry was refused, and only for the moment.
func mayPass(s *Stream, e *Entry) bool {
	return e.Reject.Retryable() || e.Reject == OK && s.Reject.Retryable()
}

// --- decoding of logproto.PushRequest -------------------------------------

var errTruncated = errors.New("push: truncated protobuf")

// An entry or a stream takes a few bytes as protobuf and ten times as many
// here. Real ones take at least 10 bytes (an entry with the present time and
// no line), so bytesPer bounds what a hostile body can cost; slack lets small
// odd ones through.
const (
	bytesPer = 8
	slack    = 4096
)

var errTooMany = errors.New("push: more entries or streams than their size can hold")

// uvarint reads one varint at p[i:]; it returns the index behind it, or -1.
func uvarint(p []byte, i int) (uint64, int) {
	if i < len(p) && p[i] < 0x80 {
		return uint64(p[i]), i + 1
	}
	var v uint64
	for s := uint(0); s < 64; s += 7 {
		if i >= len(p) {
			return 0, -1
		}
		c := p[i]
		i++
		v |= uint64(c&0x7f) << s
		if c < 0x80 {
			return v, i
		}
	}
	return 0, -1
}

// lenField reads a length at p[i:] and returns the bounds of the bytes that
// follow, or ok false.
func lenField(p []byte, i, end int) (from, to int, ok bool) {
	n, i := uvarint(p[:end], i)
	if i < 0 || n > uint64(end-i) {
		return 0, 0, false
	}
	return i, i + int(n), true
}

// skipField steps over a field whose tag was read. It returns -1 on bad input.
func skipField(p []byte, i, end int, wire uint64) int {
	switch wire {
	case 0:
		_, i = uvarint(p[:end], i)
		return i
	case 1:
		i += 8
	case 2:
		_, to, ok := lenField(p, i, end)
		if !ok {
			return -1
		}
		return to
	case 5:
		i += 4
	default:
		return -1
	}
	if i > end {
		return -1
	}
	return i
}

// decode fills Streams and Entries from Data. Unknown fields are passed over.
func (b *Batch) decode() error {
	b.Streams, b.Entries = b.Streams[:0], b.Entries[:0]
	p, end := b.Data, len(b.Data)
	b.most = end/bytesPer + slack
	for i := 0; i < end; {
		tag, j := uvarint(p[:end], i)
		if j < 0 {
			return errTruncated
		}
		if tag == 1<<3|2 {
			from, to, ok := lenField(p, j, end)
			if !ok {
				return errTruncated
			}
			if err := b.decodeStream(from, to); err != nil {
				return err
			}
			p = b.Data // normalising may have moved it
			i = to
			continue
		}
		if i = skipField(p, j, end, tag&7); i < 0 {
			return errTruncated
		}
	}
	return nil
}

func (b *Batch) decodeStream(i, end int) error {
	s := Stream{Raw: span(i, end), First: uint32(len(b.Entries))}
	for i < end {
		p := b.Data
		tag, j := uvarint(p[:end], i)
		if j < 0 {
			return errTruncated
		}
		switch tag {
		case 1<<3 | 2, 2<<3 | 2:
			from, to, ok := lenField(p, j, end)
			if !ok {
				return errTruncated
			}
			if tag == 1<<3|2 {
				s.RawLabels = span(from, to)
			} else if err := b.decodeEntry(from, to); err != nil {
				return err
			}
			i = to
		default:
			if i = skipField(p, j, end, tag&7); i < 0 {
				return errTruncated
			}
		}
	}
	if len(b.Streams) >= b.most {
		return errTooMany
	}
	s.Count = uint32(len(b.Entries)) - s.First
	b.Streams = append(b.Streams, s)
	return nil
}

func span(from, to int) Span { return Span{uint32(from), uint32(to - from)} }

func (b *Batch) decodeEntry(i, end int) error {
	p := b.Data
	var e Entry
	metaFrom, metaTo, metaEnd := -1, 0, 0 // the first run of metadata; the end of the last
	contiguous := true
	for i < end {
		at := i
		tag, j := uvarint(p[:end], i)
		if j < 0 {
			return errTruncated
		}
		switch tag {
		case 1<<3 | 2, 2<<3 | 2, 3<<3 | 2:
			from, to, ok := lenField(p, j, end)
			if !ok {
				return errTruncated
			}
			switch tag >> 3 {
			case 1:
				ts, ok := timestamp(p, from, to)
				if !ok {
					return errTruncated
				}
				e.TS = ts
			case 2:
				e.Line = span(from, to)
			case 3:
				if metaFrom < 0 {
					metaFrom, metaTo = at, to
				} else if at == metaTo {
					metaTo = to
				} else {
					contiguous = false
				}
				metaEnd = to
			}
			i = to
		default:
			if i = skipField(p, j, end, tag&7); i < 0 {
				return errTruncated
			}
		}
	}
	if metaFrom >= 0 {
		e.Meta = span(metaFrom, metaTo)
		if !contiguous {
			if len(b.Data) > maxSpan-(metaEnd-metaFrom) {
				return ErrTooLarge
			}
			e.Meta = b.gatherMeta(metaFrom, metaEnd)
		}
		var err error
		if e.Meta, err = b.normaliseMeta(e.Meta); err != nil {
			return err
		}
	}
	if len(b.Entries) >= b.most {
		return errTooMany
	}
	b.Entries = append(b.Entries, e)
	return nil
}

// timestamp reads a google.protobuf.Timestamp. A time outside of what int64
// nanoseconds can say is clamped: validation refuses that entry alone.
func timestamp(p []byte, i, end int) (int64, bool) {
	var sec, nanos int64
	for i < end {
		tag, j := uvarint(p[:end], i)
		if j < 0 {
			return 0, false
		}
		if tag == 1<<3 || tag == 2<<3 {
			v, k := uvarint(p[:end], j)
			if k < 0 {
				return 0, false
			}
			if tag == 1<<3 {
				sec = int64(v)
			} else {
				nanos = int64(int32(v))
			}
			i = k
			continue
		}
		if i = skipField(p, j, end, tag&7); i < 0 {
			return 0, false
		}
	}
	const limit = 9223372034 // seconds; with nanos of any int32 this fits
	if sec >= limit {
		return 1<<63 - 1, true
	}
	if sec <= -limit {
		return -1 << 63, true
	}
	return sec*1e9 + nanos, true
}

// gatherMeta copies the metadata fields of an entry, which a writer has
// scattered between other fields of [from, end), behind Data.
func (b *Batch) gatherMeta(from, end int) Span {
	start := len(b.Data)
	for i := from; i < end; {
		tag, j := uvarint(b.Data[:end], i)
		k := skipField(b.Data, j, end, tag&7)
		if tag == 3<<3|2 {
			b.Data = append(b.Data, b.Data[i:k]...)
		}
		i = k
	}
	return span(start, len(b.Data))
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }
