// Package bench measures the whole process: a load generator that has encoded
// its requests before the clock starts, the floor that no ingester can avoid
// on the same lines, and what the server cost, as the kernel counts it.
//
// The load and the floor run in processes of their own (see cmd); both make
// the same lines from the same Spec.
package bench

import (
	"fmt"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/loglines"
)

// Spec says which lines are sent, and how.
type Spec struct {
	Protocol string // loki, forward or json
	Streams  int
	Bytes    int64 // of lines, over all batches
	Batch    int   // bytes of lines in one request
	Conns    int
	Seed     uint64
	Each     int    // lines of one stream in one request, when there are many streams; 0: 5
	Start    int64  // time of the first line, ns; 0: a quarter of an hour ago
	App      string // the one program that writes, of loglines; empty: all of them in turn
}

// Batch is one encoded request.
type Batch struct {
	Body  []byte
	Chunk string // forward: id that is acknowledged
	Lines int
	Bytes int64 // of lines
}

// streamsPerBatch: a connection is an agent, which has its share of the
// streams, and sends some of them at a time.
func (s Spec) streamsPerBatch() int {
	share := max(1, s.Streams/s.Conns)
	lines := s.Batch / 200
	each := s.Each
	if each == 0 {
		each = 5
	}
	return max(1, min(share, max(10, lines/each)))
}

// maker makes the lines of one connection, batch by batch.
type maker struct {
	spec    Spec
	conn    int
	gen     *loglines.Generator
	streams []testkit.Stream // all of this connection's streams; Entries are re-used
	next    int              // stream with which the next batch starts
	ts      int64
	step    int64
	line    []byte
	left    int64 // bytes
	seq     uint64
	app     int // the one program; -1: all
}

func newMaker(s Spec, conn int) *maker {
	m := &maker{spec: s, conn: conn, gen: loglines.New(s.Seed + uint64(conn)), left: s.Bytes / int64(s.Conns), ts: s.Start, app: -1}
	if m.ts == 0 {
		m.ts = time.Now().Add(-15 * time.Minute).UnixNano()
	}
	// The lines spread over five minutes; odd, so that no two are equal in time.
	m.step = max(1, int64(5*time.Minute)/(s.Bytes/200+1)) | 1
	for i := range loglines.Apps() {
		if loglines.AppName(i) == s.App {
			m.app = i
		}
	}
	for i := conn; i < s.Streams; i += s.Conns {
		app := loglines.AppName(m.program(i))
		m.streams = append(m.streams, testkit.Stream{Labels: []testkit.Pair{
			{Name: "app", Value: app},
			{Name: "instance", Value: fmt.Sprintf("%s-%05d", app, i)},
			{Name: "job", Value: "bench"},
			{Name: "namespace", Value: fmt.Sprintf("team-%d", i%7)},
		}})
	}
	return m
}

// program is the one that writes stream i.
func (m *maker) program(i int) int {
	if m.app >= 0 {
		return m.app
	}
	return i
}

// batch returns the streams of the next batch, or nil at the end. They are
// valid until the next call.
func (m *maker) batch() (streams []testkit.Stream, lines int, bytes int64) {
	if m.left <= 0 || len(m.streams) == 0 {
		return nil, 0, 0
	}
	n := min(m.spec.streamsPerBatch(), len(m.streams))
	for i := range n {
		s := m.streams[(m.next+i)%len(m.streams)]
		s.Entries = s.Entries[:0]
		streams = append(streams, s)
	}
	want := min(int64(m.spec.Batch), m.left)
	for i := 0; bytes < want; i++ {
		k := i % n
		app := m.program(m.conn + (m.next+k)%len(m.streams)*m.spec.Conns)
		m.ts += m.step
		m.line = m.gen.AppendLine(m.line[:0], app, m.ts)
		streams[k].Entries = append(streams[k].Entries, testkit.Entry{TS: m.ts, Line: string(m.line)})
		bytes += int64(len(m.line))
		lines++
	}
	m.next = (m.next + n) % len(m.streams)
	m.left -= bytes
	return streams, lines, bytes
}

// encode makes the request of a batch.
func (m *maker) encode(streams []testkit.Stream) (body []byte, chunk string) {
	switch m.spec.Protocol {
	case "forward":
		m.seq++
		chunk = testkit.ChunkID(uint64(m.conn)<<32 | m.seq)
		return testkit.Forward("bench", chunk, streams), chunk
	case "json":
		return testkit.EventsJSON(streams), ""
	}
	return s2.EncodeSnappy(nil, testkit.PushRequest(streams)), ""
}

// Batches makes all batches of connection conn.
func (s Spec) Batches(conn int) []Batch {
	m := newMaker(s, conn)
	var out []Batch
	for {
		streams, lines, bytes := m.batch()
		if streams == nil {
			return out
		}
		body, chunk := m.encode(streams)
		out = append(out, Batch{Body: body, Chunk: chunk, Lines: lines, Bytes: bytes})
	}
}
