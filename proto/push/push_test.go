package push

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// tEntry and tStream are pushes in the plainest form there is.
type (
	tPair  struct{ name, value string }
	tEntry struct {
		ts   int64
		line string
		meta []tPair
	}
)

type tStream struct {
	labels  string
	entries []tEntry
}

// encode is a push as a client would write it.
func encode(streams []tStream) []byte {
	var out []byte
	for _, s := range streams {
		var p []byte
		if s.labels != "" {
			p = protowire.AppendTag(p, 1, protowire.BytesType)
			p = protowire.AppendString(p, s.labels)
		}
		for _, e := range s.entries {
			var ts, ent []byte
			sec, nanos := e.ts/1e9, e.ts%1e9
			if nanos < 0 {
				sec, nanos = sec-1, nanos+1e9
			}
			ts = protowire.AppendTag(ts, 1, protowire.VarintType)
			ts = protowire.AppendVarint(ts, uint64(sec))
			ts = protowire.AppendTag(ts, 2, protowire.VarintType)
			ts = protowire.AppendVarint(ts, uint64(nanos))
			ent = protowire.AppendTag(ent, 1, protowire.BytesType)
			ent = protowire.AppendBytes(ent, ts)
			ent = protowire.AppendTag(ent, 2, protowire.BytesType)
			ent = protowire.AppendString(ent, e.line)
			for _, kv := range e.meta {
				var pair []byte
				pair = protowire.AppendTag(pair, 1, protowire.BytesType)
				pair = protowire.AppendString(pair, kv.name)
				pair = protowire.AppendTag(pair, 2, protowire.BytesType)
				pair = protowire.AppendString(pair, kv.value)
				ent = protowire.AppendTag(ent, 3, protowire.BytesType)
				ent = protowire.AppendBytes(ent, pair)
			}
			p = protowire.AppendTag(p, 2, protowire.BytesType)
			p = protowire.AppendBytes(p, ent)
		}
		out = protowire.AppendTag(out, 1, protowire.BytesType)
		out = protowire.AppendBytes(out, p)
	}
	return out
}

// plain is the inverse, from a batch.
func plain(b *Batch) []tStream {
	out := make([]tStream, len(b.Streams))
	for i := range b.Streams {
		s := &b.Streams[i]
		out[i].labels = string(b.Bytes(s.RawLabels))
		for j := range b.StreamEntries(s) {
			e := &b.StreamEntries(s)[j]
			te := tEntry{ts: e.TS, line: string(b.Bytes(e.Line))}
			for it := b.Pairs(e); it.Next(); {
				te.meta = append(te.meta, tPair{string(it.Name), string(it.Value)})
			}
			out[i].entries = append(out[i].entries, te)
		}
	}
	return out
}

func equal(a, b []tStream) bool {
	return slices.EqualFunc(a, b, func(a, b tStream) bool {
		return a.labels == b.labels && slices.EqualFunc(a.entries, b.entries, func(a, b tEntry) bool {
			return a.ts == b.ts && a.line == b.line && slices.Equal(a.meta, b.meta)
		})
	})
}

// logLines makes lines like those of ordinary services: 145 bytes on average,
// much repetition between them.
func logLines(seed uint64, n int) []string {
	rnd := rand.New(rand.NewPCG(seed, 17))
	classes := []string{"org.example.store.BlockManager", "o.e.net.HttpServer", "kernel", "sshd[4711]", "worker.queue"}
	levels := []string{"INFO", "INFO", "INFO", "WARN", "ERROR", "DEBUG"}
	out := make([]string, n)
	for i := range out {
		head := fmt.Sprintf("2026-09-21 14:%02d:%02d,%03d %s [%s] ", i/60%60, i%60, rnd.IntN(1000), levels[rnd.IntN(len(levels))], classes[rnd.IntN(len(classes))])
		switch rnd.IntN(4) {
		case 0:
			out[i] = head + fmt.Sprintf("Received block blk_%d of size %d from /10.251.%d.%d:50010 to replica set of three nodes", rnd.Int64(), 67108864, rnd.IntN(256), rnd.IntN(256))
		case 1:
			out[i] = head + fmt.Sprintf(`"GET /api/v1/items/%d?page=%d HTTP/1.1" 200 %d "-" "Mozilla/5.0 (X11; Linux x86_64)" rt=0.%03d`, rnd.IntN(1e6), rnd.IntN(50), rnd.IntN(1e5), rnd.IntN(1000))
		case 2:
			out[i] = head + fmt.Sprintf("session opened for user svc-%d by (uid=%d), request id %016x, waiting for the next command", rnd.IntN(30), rnd.IntN(2000), rnd.Uint64())
		default:
			out[i] = head + fmt.Sprintf("task %d of job %d finished in %d ms, %d records read, %d written, 0 skipped", rnd.IntN(500), rnd.IntN(40), rnd.IntN(9000), rnd.IntN(1e6), rnd.IntN(1e6))
		}
	}
	return out
}

// sample is a push of n lines in some streams, with metadata at every third.
func sample(n, streams int) []tStream {
	out := make([]tStream, streams)
	for i, line := range logLines(1, n) {
		s := &out[i%streams]
		s.labels = fmt.Sprintf(`{app="app-%d", env="prod"}`, i%streams)
		e := tEntry{ts: 1_790_000_000_000_000_000 + int64(i)*1_234_567, line: line}
		if i%3 == 0 {
			e.meta = []tPair{{"pod", fmt.Sprintf("web-%d", i%7)}, {"trace_id", fmt.Sprintf("%032x", i)}}
		}
		s.entries = append(s.entries, e)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	want := sample(500, 7)
	wire := encode(want)
	f := func(name string, set func(b *Batch) error) {
		t.Helper()
		b := Get()
		defer b.Release()
		if err := set(b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !equal(plain(b), want) {
			t.Fatalf("%s: other entries than were sent", name)
		}
		// What Body carries is the same again.
		c := Get()
		defer c.Release()
		if err := c.SetBody(b.Body, b.Codec, 0); err != nil {
			t.Fatalf("%s: own body: %v", name, err)
		}
		if !equal(plain(c), want) {
			t.Fatalf("%s: own body has other entries", name)
		}
	}
	f("none", func(b *Batch) error { return b.SetBody(wire, CodecNone, 0) })
	f("snappy", func(b *Batch) error { return b.SetBody(snappy.Encode(nil, wire), CodecSnappy, 0) })
	f("s2", func(b *Batch) error { return b.SetBody(s2.EncodeBetter(nil, wire), CodecSnappy, 0) })
	f("data", func(b *Batch) error { return b.SetData(bytes.Clone(wire)) })
	f("builder", func(b *Batch) error {
		bl := NewBuilder(b)
		// Round robin over streams, as records arrive.
		for i := 0; i < len(want[0].entries); i++ {
			for _, s := range want {
				if i < len(s.entries) {
					k := bl.Stream([]byte(s.labels))
					for _, kv := range s.entries[i].meta {
						bl.Pair([]byte(kv.name), []byte(kv.value))
					}
					bl.EntryExact(k, s.entries[i].ts, []byte(s.entries[i].line))
				}
			}
		}
		bl.Finish()
		return nil
	})
}

func TestPoolKeepsNothing(t *testing.T) {
	b := Get()
	if err := b.SetBody(encode(sample(10, 2)), CodecNone, 0); err != nil {
		t.Fatal(err)
	}
	b.Tenant, b.ID, b.Stale = "t", ID{1}, true
	b.Streams[0].Labels = "x"
	b.Release()
	for range 10 { // whatever Get returns must be empty
		b = Get()
		if b.Tenant != "" || b.ID != (ID{}) || b.Stale || b.Body != nil || len(b.Streams)+len(b.Entries)+len(b.Data) != 0 {
			t.Fatalf("a batch from the pool is not empty: %+v", b)
		}
		if s := b.Streams[:cap(b.Streams)]; len(s) > 0 && s[0].Labels != "" {
			t.Fatal("a released batch keeps label strings alive")
		}
	}
}

func TestTimestamps(t *testing.T) {
	f := func(sec int64, nanos int32, want int64) {
		t.Helper()
		var ts []byte
		ts = protowire.AppendTag(ts, 1, protowire.VarintType)
		ts = protowire.AppendVarint(ts, uint64(sec))
		ts = protowire.AppendTag(ts, 2, protowire.VarintType)
		ts = protowire.AppendVarint(ts, uint64(int64(nanos)))
		got, ok := timestamp(ts, 0, len(ts))
		if !ok || got != want {
			t.Fatalf("%d s %d ns: got %d, %v, want %d", sec, nanos, got, ok, want)
		}
	}
	f(0, 0, 0)
	f(1, 1, 1e9+1)
	f(-1, 999_999_999, -1)
	f(9223372033, math.MaxInt32, 9223372033*1e9+math.MaxInt32)
	f(9223372036, math.MaxInt32, math.MaxInt64)
	f(9223372035, math.MaxInt32, math.MaxInt64)
	f(math.MaxInt64, 0, math.MaxInt64)
	f(-9223372033, math.MinInt32, -9223372033*1e9+math.MinInt32)
	f(-9223372035, math.MinInt32, math.MinInt64)
	f(math.MinInt64, 0, math.MinInt64)
	// What a builder writes is read back, before 1970 too.
	for _, ts := range []int64{0, 1, -1, 1e9, -1e9, -1e9 - 1, 1790000000123456789} {
		bl := NewBuilder(Get())
		bl.EntryExact(bl.Stream([]byte("{}")), ts, nil)
		b := Get()
		if err := b.SetBody(bl.Finish().Body, CodecSnappy, 0); err != nil {
			t.Fatal(err)
		}
		if got := b.Entries[0].TS; got != ts {
			t.Fatalf("time %d came back as %d", ts, got)
		}
	}
}

func TestUnknownFieldsAndOrder(t *testing.T) {
	// hash and format as Loki's distributor sends them, metadata before the line
	// and scattered, fields of every wire type that we do not know.
	var unknown []byte
	unknown = protowire.AppendTag(unknown, 15, protowire.VarintType)
	unknown = protowire.AppendVarint(unknown, 1<<40)
	unknown = protowire.AppendTag(unknown, 16, protowire.Fixed32Type)
	unknown = protowire.AppendFixed32(unknown, 7)
	unknown = protowire.AppendTag(unknown, 17, protowire.Fixed64Type)
	unknown = protowire.AppendFixed64(unknown, 7)
	unknown = protowire.AppendTag(unknown, 1000, protowire.BytesType)
	unknown = protowire.AppendString(unknown, "later")

	pair := func(p []byte, name, value string) []byte {
		inner := bytes.Clone(unknown)
		inner = protowire.AppendTag(inner, 2, protowire.BytesType)
		inner = protowire.AppendString(inner, value)
		inner = protowire.AppendTag(inner, 1, protowire.BytesType)
		inner = protowire.AppendString(inner, name)
		p = protowire.AppendTag(p, 3, protowire.BytesType)
		return protowire.AppendBytes(p, inner)
	}
	var ent []byte
	ent = pair(ent, "b", "2")
	ent = append(ent, unknown...)
	ent = protowire.AppendTag(ent, 2, protowire.BytesType)
	ent = protowire.AppendString(ent, "line")
	ent = pair(ent, "a", "1")
	ent = append(ent, unknown...)
	ent = pair(ent, "c", "3")
	ent = protowire.AppendTag(ent, 1, protowire.BytesType)
	ent = protowire.AppendBytes(ent, append([]byte{1 << 3, 5}, unknown...))

	var stream []byte
	stream = append(stream, unknown...)
	stream = protowire.AppendTag(stream, 2, protowire.BytesType)
	stream = protowire.AppendBytes(stream, ent)
	stream = protowire.AppendTag(stream, 3, protowire.VarintType)
	stream = protowire.AppendVarint(stream, 0xdeadbeef)
	stream = protowire.AppendTag(stream, 1, protowire.BytesType)
	stream = protowire.AppendString(stream, `{a="b"}`)

	body := bytes.Clone(unknown)
	body = protowire.AppendTag(body, 2, protowire.BytesType)
	body = protowire.AppendString(body, "loki")
	for range 2 {
		body = protowire.AppendTag(body, 1, protowire.BytesType)
		body = protowire.AppendBytes(body, stream)
	}
	b := Get()
	defer b.Release()
	if err := b.SetBody(body, CodecNone, 0); err != nil {
		t.Fatal(err)
	}
	s := tStream{`{a="b"}`, []tEntry{{5e9, "line", []tPair{{"a", "1"}, {"b", "2"}, {"c", "3"}}}}}
	if got, want := plain(b), []tStream{s, s}; !equal(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

func TestMalformed(t *testing.T) {
	good := encode(sample(3, 1))
	whole := func(p []byte) error { b := Get(); defer b.Release(); return b.SetBody(p, CodecNone, 0) }
	if err := whole(good); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(good); i++ {
		if err := whole(good[:i]); err == nil {
			t.Fatalf("cut after %d of %d bytes: no error", i, len(good))
		}
	}
	f := func(name string, p ...byte) {
		t.Helper()
		if err := whole(p); err == nil {
			t.Fatalf("%s: no error", name)
		}
	}
	f("length past the end", 0x0a, 0x7f)
	f("length of 2^63", 0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)
	f("endless varint", 0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)
	f("group", 0x0b)
	f("wire type 7", 0x0f)
	f("bad entry", 0x0a, 2, 0x12, 0x05)
	f("bad timestamp", 0x0a, 5, 0x12, 3, 0x0a, 1, 0x08)
	f("bad pair", 0x0a, 5, 0x12, 3, 0x1a, 1, 0x0a)
	// Metadata that is rewritten behind the protobuf must not be read as the
	// end of it.
	f("tag cut off behind rewritten metadata", append(encode([]tStream{{"{}", []tEntry{{1, "x", []tPair{{"a.b", "1"}}}}}}), 0x80)...)

	b := Get()
	defer b.Release()
	for name, p := range map[string][]byte{
		"snappy empty":     {},
		"snappy garbage":   []byte("hello world"),
		"snappy lie":       append(binary.AppendUvarint(nil, 1<<30), 0, 'a'),
		"snappy truncated": snappy.Encode(nil, good)[:20],
	} {
		if err := b.SetBody(p, CodecSnappy, 0); err == nil {
			t.Fatalf("%s: no error", name)
		}
		if cap(b.Data) > 1<<20 {
			t.Fatalf("%s: allocated %d bytes", name, cap(b.Data))
		}
	}
	if err := b.SetBody(good, Codec(9), 0); err == nil {
		t.Fatal("unknown codec: no error")
	}
}

func TestTooLarge(t *testing.T) {
	good := encode(sample(10, 1))
	b := Get()
	defer b.Release()
	for _, c := range []Codec{CodecNone, CodecSnappy} {
		body := good
		if c == CodecSnappy {
			body = snappy.Encode(nil, good)
		}
		if err := b.SetBody(body, c, len(good)-1); !errors.Is(err, ErrTooLarge) {
			t.Fatalf("codec %d: got %v, want ErrTooLarge", c, err)
		}
		if err := b.SetBody(body, c, len(good)); err != nil {
			t.Fatalf("codec %d at the limit: %v", c, err)
		}
	}
}

// TestHostileShapes sends the shapes that cost most memory per byte.
func TestHostileShapes(t *testing.T) {
	const n = 1 << 20
	b := Get()
	entries := append(binary.AppendUvarint([]byte{0x0a}, 2*n), bytes.Repeat([]byte{0x12, 0}, n)...)
	if err := b.SetBody(entries, CodecNone, 0); !errors.Is(err, errTooMany) {
		t.Fatalf("empty entries: got %v", err)
	}
	if err := b.SetBody(bytes.Repeat([]byte{0x0a, 0}, n), CodecNone, 0); !errors.Is(err, errTooMany) {
		t.Fatalf("empty streams: got %v", err)
	}
	// A few empty ones are no reason to refuse a push.
	if err := b.SetBody(bytes.Repeat([]byte{0x0a, 2, 0x12, 0}, 1000), CodecNone, 0); err != nil || len(b.Entries) != 1000 {
		t.Fatalf("1000 empty entries: %d, %v", len(b.Entries), err)
	}
	// Many pairs with one name and different values: no quadratic work.
	var meta []tPair
	for i := range MaxPairs {
		meta = append(meta, tPair{"", fmt.Sprint(i)})
	}
	if err := b.SetBody(encode([]tStream{{"{}", []tEntry{{1, "x", meta}}}}), CodecNone, 0); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for it := b.Pairs(&b.Entries[0]); it.Next(); {
		if seen[string(it.Name)] {
			t.Fatalf("name %q occurs twice", it.Name)
		}
		seen[string(it.Name)] = true
	}
	if len(seen) != len(meta) {
		t.Fatalf("%d pairs of %d", len(seen), len(meta))
	}
	// A million empty pairs cost nothing but their bytes.
	pairs := bytes.Repeat([]byte{0x1a, 0}, n)
	entry := append(binary.AppendUvarint([]byte{0x12}, uint64(len(pairs))), pairs...)
	if err := b.SetBody(append(binary.AppendUvarint([]byte{0x0a}, uint64(len(entry))), entry...), CodecNone, 0); err != nil {
		t.Fatal(err)
	}
	if int(b.Entries[0].Meta.Len) != len(pairs) || len(b.norm.pairs) > MaxPairs {
		t.Fatalf("%d bytes of metadata for %d, scratch for %d pairs", b.Entries[0].Meta.Len, len(pairs), len(b.norm.pairs))
	}
}

func TestDecodedLen(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	f := func(name string, data []byte) {
		t.Helper()
		for how, block := range map[string][]byte{
			"snappy": snappy.Encode(nil, data), "s2": s2.Encode(nil, data),
			"better": s2.EncodeBetter(nil, data), "best": s2.EncodeBest(nil, data),
		} {
			if n, err := DecodedLen(block); err != nil || n != len(data) {
				t.Fatalf("%s %s: %d, %v, want %d", name, how, n, err, len(data))
			}
			if n := contentLen(block); n != len(data) {
				t.Fatalf("%s %s: operations add up to %d, want %d", name, how, n, len(data))
			}
			lie := append(binary.AppendUvarint(nil, uint64(len(data))*64+1<<22), block[uvarintLen(uint64(len(data))):]...)
			if n, err := DecodedLen(lie); err == nil {
				t.Fatalf("%s %s: believes %d for %d", name, how, n, len(data))
			}
		}
	}
	f("empty", nil)
	f("zeros", make([]byte, 4<<20))
	f("lines", []byte(strings.Join(logLines(1, 2000), "\n")))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	f("noise", noise)
	for n := range 70 {
		f("short", noise[:n])
	}
	for n := 1; n < 70; n += 7 {
		f("short repeat", append(bytes.Repeat([]byte("ab"), n*n), noise[:n]...))
	}
	for _, n := range []int{256, 65535, 65536, 65537, 1 << 16, 70_000} {
		f("literal", noise[:n])
		f("run", make([]byte, n))
	}
	f("no block", nil)
	if _, err := DecodedLen(nil); err == nil {
		t.Fatal("no bytes: no error")
	}
}

func TestNormaliseMeta(t *testing.T) {
	f := func(in []tPair, want ...tPair) {
		t.Helper()
		b := Get()
		defer b.Release()
		check := func(how string) {
			t.Helper()
			if got := plain(b)[0].entries[0].meta; !slices.Equal(got, want) {
				t.Fatalf("%s: %q: got %q, want %q", how, in, got, want)
			}
		}
		if err := b.SetBody(encode([]tStream{{"{}", []tEntry{{1, "x", in}}}}), CodecNone, 0); err != nil {
			t.Fatal(err)
		}
		check("decode")
		b.Rebuild()
		check("rebuild")
		bl := NewBuilder(b)
		for _, kv := range in {
			bl.Pair([]byte(kv.name), []byte(kv.value))
		}
		bl.EntryExact(bl.Stream([]byte("{}")), 1, []byte("x"))
		bl.Finish()
		check("builder")
	}
	f(nil)
	f([]tPair{{"a", "1"}, {"b", ""}}, tPair{"a", "1"}, tPair{"b", ""})
	f([]tPair{{"b", "2"}, {"a", "1"}}, tPair{"a", "1"}, tPair{"b", "2"})
	f([]tPair{{"service.name", "x"}}, tPair{"service_name", "x"})
	f([]tPair{{"a", "x\uFFFDy\uFFFD"}}, tPair{"a", "xy"})
	f([]tPair{{"a", "\uFFFD"}}, tPair{"a", ""})
	f([]tPair{{"", "1"}, {"☃", "1"}}, tPair{"key", "1"})
	f([]tPair{{"a", "1"}, {"a", "1"}}, tPair{"a", "1"})
	f([]tPair{{"a.b", "1"}, {"a-b", "2"}, {"a_b", "1"}}, tPair{"a_b", "1"}, tPair{"a_b_2", "2"})
	f([]tPair{{"a", "1"}, {"a", "2"}, {"a_2", "3"}}, tPair{"a", "1"}, tPair{"a_2", "3"}, tPair{"a_3", "2"})
	f([]tPair{{"x_", "1"}, {"x.", "2"}, {"x", "3"}, {"x", "4"}}, tPair{"x", "3"}, tPair{"x_", "1"}, tPair{"x_2", "4"}, tPair{"x_3", "2"})
	f([]tPair{{"__x__", "1"}, {"__x__", "2"}}, tPair{"__x__", "1"}, tPair{"_x_2", "2"})
	f([]tPair{{"b", "\xff\xfe"}}, tPair{"b", "\xff\xfe"})
}

func TestNormaliseName(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := string(NormaliseName(nil, []byte(in))); got != want {
			t.Fatalf("%q: got %q, want %q", in, got, want)
		}
	}
	f("service.name", "service_name")
	f("a__b.c", "a_b_c")
	f("__x__", "__x__")
	f("__x.y__", "_x_y_")
	f("1a", "key_1a")
	f("", "key")
	f("___", "key")
	f("☃", "key")
	f("_a_", "_a_")
	f("Straße", "Stra_e")
}

func TestBuilderTimes(t *testing.T) {
	f := func(name string, in, want []int64) {
		t.Helper()
		bl := NewBuilder(Get())
		s := bl.Stream([]byte("{}"))
		for _, ts := range in {
			bl.Entry(s, ts, nil)
		}
		b := bl.Finish()
		var got []int64
		for _, e := range b.Entries {
			got = append(got, e.TS)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%s: got %v, want %v", name, got, want)
		}
	}
	const s = int64(1e9)
	f("equal seconds", []int64{s, s, s, 2 * s}, []int64{s, s + 1, s + 2, 2 * s})
	f("nanoseconds stay", []int64{s + 1, s + 1, s}, []int64{s + 1, s + 1, s + 2})
	f("a step back", []int64{3 * s, s, s, 3 * s, s}, []int64{3 * s, s, s + 1, 3*s + 1, s + 2})
	f("back onto a time given out", []int64{s, 5 * s, s, s}, []int64{s, 5 * s, s + 1, s + 2})
	f("milliseconds", []int64{5e6, 5e6, 4e6, 4e6}, []int64{5e6, 5e6 + 1, 4e6, 4e6 + 1})
	f("before 1970", []int64{-s, -s, -2 * s}, []int64{-s, -s + 1, -2 * s})

	// Equal records give equal times, all different, in order of arrival where
	// the clock does not step back by more than its resolution.
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		var in []int64
		for range 200 {
			in = append(in, int64(rnd.IntN(4))*s)
		}
		run := func() []int64 {
			bl := NewBuilder(Get())
			for _, ts := range in {
				bl.Entry(bl.Stream([]byte("{}")), ts, nil)
			}
			var out []int64
			for _, e := range bl.Finish().Entries {
				out = append(out, e.TS)
			}
			return out
		}
		got := run()
		if !slices.Equal(got, run()) {
			t.Fatal("two runs differ")
		}
		seen := map[int64]bool{}
		for i, ts := range got {
			if seen[ts] {
				t.Fatalf("time %d given out twice", ts)
			}
			if ts < in[i] {
				t.Fatalf("time %d moved back to %d", in[i], ts)
			}
			seen[ts] = true
		}
	}
}

func TestBuilderReset(t *testing.T) {
	bl := NewBuilder(Get())
	fill := func(n int) *Batch {
		for i := range n {
			bl.Pair([]byte("n"), fmt.Append(nil, i))
			bl.Entry(bl.Stream(fmt.Appendf(nil, `{a="%d"}`, i%3)), int64(i), []byte("line"))
		}
		if bl.Len() != n || bl.Size() == 0 && n > 0 {
			t.Fatalf("%d entries, %d bytes, want %d entries", bl.Len(), bl.Size(), n)
		}
		return bl.Finish()
	}
	first := plain(fill(100))
	bl.Reset(Get())
	if got := plain(fill(10)); len(got) != 3 || len(got[0].entries) != 4 {
		t.Fatalf("after Reset: %+v", got)
	}
	bl.Reset(Get())
	bl.Pair([]byte("dropped"), nil)
	bl.DropPairs()
	if got := plain(fill(100)); !equal(got, first) {
		t.Fatal("a reused builder gives another batch")
	}
	bl.Reset(Get())
	if b := bl.Finish(); len(b.Streams) != 0 || b.SetBody(bytes.Clone(b.Body), b.Codec, 0) != nil {
		t.Fatal("an empty batch is not empty, or its body is not readable")
	}
}

func TestMapLabels(t *testing.T) {
	bl := NewBuilder(Get())
	for i := range 6 {
		bl.EntryExact(bl.Stream(fmt.Appendf(nil, `{a="%d"}`, i%2)), int64(i), []byte("x"))
	}
	bl.MapLabels(strings.ToUpper)
	b := bl.Finish()
	want := []tStream{
		{`{A="0"}`, []tEntry{{0, "x", nil}, {2, "x", nil}, {4, "x", nil}}},
		{`{A="1"}`, []tEntry{{1, "x", nil}, {3, "x", nil}, {5, "x", nil}}},
	}
	if got := plain(b); !equal(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	c := Get()
	if err := c.SetBody(b.Body, b.Codec, 0); err != nil || !equal(plain(c), want) {
		t.Fatalf("the body says something else: %v", err)
	}
}

func TestRebuild(t *testing.T) {
	in := sample(60, 4)
	b := Get()
	if err := b.SetBody(snappy.Encode(nil, encode(in)), CodecSnappy, 0); err != nil {
		t.Fatal(err)
	}
	for i := range b.Streams {
		b.Streams[i].Labels = string(b.Bytes(b.Streams[i].RawLabels))
		b.Streams[i].Token = uint32(i + 1)
	}
	// Refuse one stream, one entry; cut one line.
	b.Streams[1].Reject = InvalidLabels
	b.Entries[b.Streams[2].First].Reject = TooOld
	cut := &b.Entries[b.Streams[3].First+1]
	cut.Line.Len = 5
	b.Stale = true
	want := []tStream{in[0], {in[2].labels, in[2].entries[1:]}, {in[3].labels, slices.Clone(in[3].entries)}}
	want[2].entries[1].line = want[2].entries[1].line[:5]
	b.Rebuild()
	if b.Stale || b.Codec != CodecSnappy {
		t.Fatal("still stale")
	}
	if got := plain(b); !equal(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for i, old := range []uint32{1, 3, 4} {
		if s := b.Streams[i]; s.Token != old || s.Labels != string(b.Bytes(s.RawLabels)) || s.Reject != OK {
			t.Fatalf("stream %d: %+v", i, s)
		}
	}
	c := Get()
	if err := c.SetBody(b.Body, b.Codec, 0); err != nil || !equal(plain(c), want) {
		t.Fatalf("the new body has other entries: %v", err)
	}
}

func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	for r := OK; r < numReasons; r++ {
		s := r.String()
		if s == "" || seen[s] {
			t.Fatalf("reason %d is called %q", r, s)
		}
		seen[s] = true
		if ReasonByName(s) != r {
			t.Fatalf("%s does not find itself", s)
		}
		// Only 429 and 5xx make clients try again.
		code := r.Status()
		if again := code == 429 || code >= 500; again != r.Retryable() {
			t.Fatalf("%s: status %d, retryable %v", s, code, r.Retryable())
		}
	}
	if got := Reason(200).String(); got != "reason(200)" {
		t.Fatalf("got %q", got)
	}
	if ReasonByName("no such") != Internal {
		t.Fatal("an unknown name is not Internal")
	}
}

func TestRejected(t *testing.T) {
	text := func(s string) func() string { return func() string { return s } }
	f := func(want int, reasons ...Reason) {
		t.Helper()
		var r Rejected
		for _, x := range reasons {
			r.Add(x, "", 1, 1, text("t"))
		}
		if got := r.Status(); got != want {
			t.Fatalf("%v: status %d, want %d", reasons, got, want)
		}
	}
	f(400, TooOld)
	f(429, StreamRateLimit)
	f(429, StreamRateLimit, TooOld)
	f(429, TooOld, StreamRateLimit)
	f(503, BlockedIngestion, TooOld, DiskLow)
	f(400, BlockedIngestion, TooOld)
	f(400, TooOld, BlockedIngestion)
	f(260, BlockedIngestion)
	f(429, StreamLimit, DiskLow)

	var a, b Rejected
	a.Total, b.Total = 10, 10
	a.Add(TooOld, "s1", 2, 20, text("first"))
	a.Groups[0].OldestOK = 5
	b.Add(TooOld, "s2", 1, 10, text("other"))
	b.Groups[0].OldestOK = 7
	b.Add(StreamLimit, "s3", 1, 1, text("full"))
	a.Merge(&b)
	if len(a.Groups) != 2 || a.Entries != 4 || a.Groups[0].Count != 3 || a.Groups[0].Bytes != 30 || a.Groups[0].OldestOK != 7 {
		t.Fatalf("merged: %+v", a)
	}
	if !a.Retryable() || (&Rejected{Groups: a.Groups[:1]}).Retryable() {
		t.Fatal("wrong about retries")
	}
	if got, want := a.Error(), "3 errors like: first; 1 errors like: full (4 of 10 entries refused, the rest is stored)"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// --- against google.golang.org/protobuf ------------------------------------

// pushDescriptor describes logproto.PushRequest; bytes for string, as Loki
// does not check for UTF-8.
func pushDescriptor(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	field := func(name string, number int32, typ descriptorpb.FieldDescriptorProto_Type, repeated bool, of string) *descriptorpb.FieldDescriptorProto {
		label := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		if repeated {
			label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
		}
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: &typ, Label: &label}
		if of != "" {
			f.TypeName = proto.String(".t." + of)
		}
		return f
	}
	const (
		msg   = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
		bytes = descriptorpb.FieldDescriptorProto_TYPE_BYTES
	)
	message := func(name string, fields ...*descriptorpb.FieldDescriptorProto) *descriptorpb.DescriptorProto {
		return &descriptorpb.DescriptorProto{Name: &name, Field: fields}
	}
	fd, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("t.proto"), Package: proto.String("t"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			message("Push", field("streams", 1, msg, true, "Stream"), field("format", 2, bytes, false, "")),
			message("Stream", field("labels", 1, bytes, false, ""), field("entries", 2, msg, true, "Entry"),
				field("hash", 3, descriptorpb.FieldDescriptorProto_TYPE_UINT64, false, "")),
			message("Entry", field("ts", 1, msg, false, "Time"), field("line", 2, bytes, false, ""), field("meta", 3, msg, true, "Pair")),
			message("Time", field("seconds", 1, descriptorpb.FieldDescriptorProto_TYPE_INT64, false, ""),
				field("nanos", 2, descriptorpb.FieldDescriptorProto_TYPE_INT32, false, "")),
			message("Pair", field("name", 1, bytes, false, ""), field("value", 2, bytes, false, "")),
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return fd.Messages().ByName("Push")
}

func fieldOf(m protoreflect.Message, name string) protoreflect.Value {
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

// official decodes p with google.golang.org/protobuf.
func official(d protoreflect.MessageDescriptor, p []byte) ([]tStream, error) {
	m := dynamicpb.NewMessage(d)
	if err := proto.Unmarshal(p, m); err != nil {
		return nil, err
	}
	var out []tStream
	streams := fieldOf(m, "streams").List()
	for i := range streams.Len() {
		s := streams.Get(i).Message()
		ts := tStream{labels: string(fieldOf(s, "labels").Bytes())}
		entries := fieldOf(s, "entries").List()
		for j := range entries.Len() {
			e := entries.Get(j).Message()
			when := fieldOf(e, "ts").Message()
			te := tEntry{line: string(fieldOf(e, "line").Bytes())}
			sec, nanos := fieldOf(when, "seconds").Int(), fieldOf(when, "nanos").Int()
			switch {
			case sec >= 9223372034:
				te.ts = math.MaxInt64
			case sec <= -9223372034:
				te.ts = math.MinInt64
			default:
				te.ts = sec*1e9 + nanos
			}
			var n normaliser
			var pairs []byte
			meta := fieldOf(e, "meta").List()
			for k := range meta.Len() {
				kv := meta.Get(k).Message()
				pairs = appendPair(pairs, fieldOf(kv, "name").Bytes(), fieldOf(kv, "value").Bytes())
			}
			for it := PairsOf(n.rewrite(nil, pairs)); it.Next(); {
				te.meta = append(te.meta, tPair{string(it.Name), string(it.Value)})
			}
			ts.entries = append(ts.entries, te)
		}
		out = append(out, ts)
	}
	return out, nil
}

func TestAgainstOfficialDecoder(t *testing.T) {
	d := pushDescriptor(t)
	rnd := rand.New(rand.NewPCG(7, 8))
	names := []string{"a", "b.c", "b_c", "", "__x__", "9z", "☃", "trace_id"}
	for range 300 {
		var in []tStream
		for range rnd.IntN(4) {
			s := tStream{labels: names[rnd.IntN(len(names))]}
			for range rnd.IntN(5) {
				e := tEntry{ts: rnd.Int64() - rnd.Int64(), line: strings.Repeat("x\xff", rnd.IntN(100))}
				for range rnd.IntN(6) {
					e.meta = append(e.meta, tPair{names[rnd.IntN(len(names))], fmt.Sprint(rnd.IntN(3), "\uFFFD")})
				}
				s.entries = append(s.entries, e)
			}
			in = append(in, s)
		}
		compareWithOfficial(t, d, encode(in))
	}
}

// compareWithOfficial fails if the two decoders disagree on p where they need
// to agree. Ours takes what the other refuses in field numbers and the tenth
// byte of varints, and does not merge a message field that occurs twice.
func compareWithOfficial(t *testing.T, d protoreflect.MessageDescriptor, p []byte) {
	t.Helper()
	want, refused := official(d, p)
	b := Get()
	defer b.Release()
	err := b.SetBody(p, CodecNone, 0)
	if errors.Is(err, errTooMany) {
		return
	}
	if err != nil {
		if refused == nil && !hasGroup(p) {
			t.Fatalf("%x: refused with %v, the other decoder takes it", p, err)
		}
		return
	}
	if refused != nil || twiceTimed(p) {
		return
	}
	if got := plain(b); !equal(got, want) {
		t.Fatalf("%x: got %+v, want %+v", p, got, want)
	}
}

// hasGroup reports whether a tag of the group type may occur in p; groups are
// gone from proto3 and refused here.
func hasGroup(p []byte) bool {
	for len(p) > 0 {
		num, typ, n := protowire.ConsumeTag(p)
		if n < 0 {
			return true
		}
		if typ == protowire.StartGroupType || typ == protowire.EndGroupType {
			return true
		}
		m := protowire.ConsumeFieldValue(num, typ, p[n:])
		if m < 0 {
			return true
		}
		if typ == protowire.BytesType {
			if v, _ := protowire.ConsumeBytes(p[n:]); len(v) > 0 && hasGroup(v) && (num <= 3) {
				return true
			}
		}
		p = p[n+m:]
	}
	return false
}

// twiceTimed reports whether some entry in p may have two timestamps.
func twiceTimed(p []byte) bool {
	return walk(p, 1, func(stream []byte) bool {
		return walk(stream, 2, func(entry []byte) bool {
			n := 0
			walk(entry, 1, func([]byte) bool { n++; return false })
			return n > 1
		})
	})
}

func walk(p []byte, field protowire.Number, f func([]byte) bool) bool {
	for len(p) > 0 {
		num, typ, n := protowire.ConsumeField(p)
		if n < 0 {
			return true
		}
		if num == field && typ == protowire.BytesType {
			_, _, t := protowire.ConsumeTag(p)
			if v, m := protowire.ConsumeBytes(p[t:]); m >= 0 && f(v) {
				return true
			}
		}
		p = p[n:]
	}
	return false
}

// --- fuzz -------------------------------------------------------------------

func seeds(f *testing.F) [][]byte {
	f.Helper()
	out := [][]byte{
		nil, encode(sample(5, 2)),
		encode([]tStream{{"{}", []tEntry{{1, "x", []tPair{{"b.c", "1"}, {"a", "\uFFFD"}, {"a", "2"}}}}}}),
	}
	files, err := filepath.Glob("testdata/*.snappy")
	if err != nil || len(files) == 0 {
		f.Fatalf("no captured pushes: %v", err)
	}
	for _, name := range files {
		p, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if p, err = snappy.Decode(nil, p); err != nil {
			f.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func FuzzSetBody(f *testing.F) {
	d := pushDescriptor(f)
	for _, p := range seeds(f) {
		f.Add(p, uint8(CodecNone))
		f.Add(snappy.Encode(nil, p), uint8(CodecSnappy))
		f.Add(s2.EncodeBest(nil, p), uint8(CodecSnappy))
	}
	f.Fuzz(func(t *testing.T, p []byte, codec uint8) {
		b := Get()
		defer b.Release()
		if err := b.SetBody(p, Codec(codec), 8<<20); err != nil {
			if cap(b.Data) > 32<<20 {
				t.Fatalf("%d bytes allocated for bad input of %d", cap(b.Data), len(p))
			}
			return
		}
		if codec == uint8(CodecNone) {
			compareWithOfficial(t, d, p)
		}
		in := plain(b)
		b.Rebuild()
		// Streams of one name are one stream after a rebuild.
		if got := plain(b); len(got) == len(in) && !equal(got, in) {
			t.Fatalf("rebuilt: got %+v, want %+v", got, in)
		}
		c := Get()
		defer c.Release()
		if err := c.SetBody(b.Body, b.Codec, 0); err != nil {
			t.Fatalf("own body: %v", err)
		}
		if !equal(plain(c), plain(b)) {
			t.Fatal("own body has other entries")
		}
	})
}

func FuzzDecodedLen(f *testing.F) {
	for _, p := range seeds(f) {
		f.Add(snappy.Encode(nil, p))
		f.Add(s2.Encode(nil, p))
	}
	f.Add(s2.EncodeBest(nil, make([]byte, 1<<20)))
	f.Fuzz(func(t *testing.T, block []byte) {
		total := contentLen(block)
		if n, err := s2.DecodedLen(block); err != nil || n > 8<<20 {
			return
		}
		if out, err := s2.Decode(nil, block); err == nil && total != len(out) {
			t.Fatalf("decodes to %d bytes, operations add up to %d", len(out), total)
		}
	})
}

func FuzzNormaliseName(f *testing.F) {
	for _, s := range []string{"", "a", "a.b", "__x__", "__", "____", "1", "☃", "__x_y__", "__a__b__"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, name []byte) {
		got := NormaliseName(nil, name)
		if len(got) == 0 || !bytes.Equal(NormaliseName(nil, got), got) {
			t.Fatalf("%q gives %q, which is not stable", name, got)
		}
		if normalName(name) && !bytes.Equal(got, name) {
			t.Fatalf("%q is normal but gives %q", name, got)
		}
	})
}

// --- benchmarks ---------------------------------------------------------------

func benchBody(b *testing.B) (wire []byte, entries int) {
	b.Helper()
	in := sample(7000, 20)
	return encode(in), 7000
}

func BenchmarkSetBody(b *testing.B) {
	wire, n := benchBody(b)
	for _, c := range []struct {
		name string
		body []byte
		id   Codec
	}{{"none", wire, CodecNone}, {"snappy", snappy.Encode(nil, wire), CodecSnappy}, {"s2", s2.Encode(nil, wire), CodecSnappy}} {
		b.Run(c.name, func(b *testing.B) {
			batch := Get()
			b.SetBytes(int64(len(wire)))
			b.ReportAllocs()
			for b.Loop() {
				if err := batch.SetBody(c.body, c.id, 0); err != nil || len(batch.Entries) != n {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBuilder(b *testing.B) {
	in := sample(7000, 20)
	for _, how := range []string{"plain", "normal-metadata", "odd-metadata"} {
		b.Run(how, func(b *testing.B) {
			labels := make([][]byte, len(in))
			for i := range in {
				labels[i] = []byte(in[i].labels)
			}
			size := 0
			lines := make([][]byte, 0, 7000)
			for i := range 350 {
				for _, s := range in {
					lines = append(lines, []byte(s.entries[i].line))
					size += len(s.entries[i].line)
				}
			}
			kv := [][]byte{[]byte("pod"), []byte("web-1"), []byte("trace_id"), []byte("abcdef0123456789")}
			if how == "odd-metadata" {
				kv[0], kv[2] = []byte("z.pod"), []byte("trace.id")
			}
			batch := Get()
			bl := NewBuilder(batch)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				bl.Reset(batch)
				for i, line := range lines {
					s := bl.Stream(labels[i%len(labels)])
					if how != "plain" {
						bl.Pair(kv[0], kv[1])
						bl.Pair(kv[2], kv[3])
					}
					bl.Entry(s, 1_790_000_000_000_000_000+int64(i)*1000, line)
				}
				bl.Finish()
			}
		})
	}
}

func BenchmarkRebuild(b *testing.B) {
	wire, _ := benchBody(b)
	batch := Get()
	if err := batch.SetBody(wire, CodecNone, 0); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		batch.Rebuild()
	}
}

func TestKeepRetryable(t *testing.T) {
	bl := NewBuilder(Get())
	for _, labels := range []string{`{a="1"}`, `{a="2"}`, `{a="3"}`} {
		k := bl.Stream([]byte(labels))
		for _, line := range []string{"x", "y", "z"} {
			bl.EntryExact(k, 1, []byte(line))
		}
	}
	b := bl.Finish()
	defer b.Release()
	b.ID = ID{1}
	b.Bury(Malformed, "no event", []byte("piece"))
	if n := b.KeepRetryable(); n != 0 || len(b.Entries) != 9 || len(b.Dead) != 1 || b.ID != (ID{1}) {
		t.Fatalf("%d of %d entries kept, %d pieces, where nothing was refused", n, len(b.Entries), len(b.Dead))
	}
	b.Entries[1].Reject = StreamRateLimit
	b.Entries[2].Reject = TooOld
	b.Streams[1].Reject = StreamLimit
	b.Entries[3].Reject = LineTooLong
	b.Streams[2].Reject = MissingLabels
	if n := b.KeepRetryable(); n != 3 {
		t.Fatalf("%d entries kept", n)
	}
	var got []string
	for i := range b.Streams {
		s := &b.Streams[i]
		for _, e := range b.StreamEntries(s) {
			if e.Reject != OK || s.Reject != OK {
				t.Errorf("%s in %s is marked", b.Bytes(e.Line), b.Bytes(s.RawLabels))
			}
			got = append(got, string(b.Bytes(s.RawLabels))+string(b.Bytes(e.Line)))
		}
	}
	if want := []string{`{a="1"}y`, `{a="2"}y`, `{a="2"}z`}; !slices.Equal(got, want) {
		t.Errorf("kept %q", got)
	}
	if len(b.Dead) != 0 || b.DeadLeft != 0 || b.ID != (ID{}) {
		t.Errorf("%d pieces and id %x are left", len(b.Dead), b.ID)
	}
}
