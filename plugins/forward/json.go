package forward

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/plugins/msgpack"
)

// jsonFrame finds the end of a JSON array or object by its brackets. What is
// between them is left to the parser.
type jsonFrame struct {
	pos   int // up to where it has looked
	depth int
	str   bool // in a string
	esc   bool // behind a backslash
	done  bool
}

var errNoBracket = errors.New("JSON that is neither an array nor an object")

// Scan implements framer. p must not start with white space.
func (f *jsonFrame) Scan(p []byte) (done bool, err error) {
	for ; f.pos < len(p) && !f.done; f.pos++ {
		switch c := p[f.pos]; {
		case f.esc:
			f.esc = false
		case f.str:
			f.esc, f.str = c == '\\', c != '"'
		case c == '"' && f.depth > 0:
			f.str = true
		case c == '[' || c == '{':
			f.depth++
		case c == ']' || c == '}':
			f.depth--
			f.done = f.depth == 0
			if f.depth < 0 {
				return false, errNoBracket
			}
		case f.depth == 0:
			return false, errNoBracket
		}
	}
	return f.done, nil
}

// Size implements framer.
func (f *jsonFrame) Size() int {
	if f.done {
		return f.pos
	}
	return f.pos + 1
}

func jsonSpace(b byte) bool { return b == ' ' || b == '\n' || b == '\t' || b == '\r' }

// jsonWork is what reading JSON messages takes.
type jsonWork struct {
	stream mapping.Stream
	rec    mapping.Record
	one    mapping.Record // an event of rec
	tag    []byte
	drops  msgpack.Events // for the counts only
}

var (
	errJSONTag   = errors.New("its first element is no tag, a string")
	errJSONShape = errors.New("it is neither [tag, time, record, option] nor [tag, [[time, record], ...], option]")
)

// handleJSON maps and stores a message in JSON. Whether it has a chunk is seen
// only behind its events, so one that might have has a batch of its own. (Who
// writes that word with escapes gets no id.)
func (c *conn) handleJSON(p []byte) error {
	var id identity
	if bytes.Contains(p, []byte(`"chunk"`)) {
		if err := c.flush(); err != nil {
			return err
		}
		id = identify(p, nil, len(p))
	}
	w := c.getWorker()
	chunk, err := c.storeJSON(w, p, id)
	if err != nil {
		if id.chunk != nil {
			w.discard()
		}
		return err
	}
	if chunk < 0 {
		c.deaf = !c.asked
		return c.finish(w, id)
	}
	if w.open {
		if err := c.push(w, id); err != nil {
			return err
		}
	}
	c.asked, c.deaf = true, false
	c.ack = append(c.ack[:0], `{"ack":`...)
	c.ack = mapping.AppendJSON(c.ack, &w.json.rec, chunk)
	c.ack = append(c.ack, '}')
	return c.writeAck(c.ack)
}

// storeJSON maps the events of a message. It returns the node of w.json.rec
// that is the chunk, or -1.
func (c *conn) storeJSON(w *worker, p []byte, id identity) (chunk int, err error) {
	j := &w.json
	j.stream.Reset(p, false)
	j.drops.Reset(nil, 0)
	if err := j.stream.Next(&j.rec); err != nil || j.rec.Nodes[0].Kind != mapping.String {
		return -1, malformed(because(errJSONTag, err))
	}
	if j.tag = append(j.tag[:0], j.rec.Nodes[0].Str...); len(j.tag) > maxTag {
		return -1, malformed(errTag)
	}
	w.message(j.tag)
	m := modeMessage
	switch err := j.stream.Next(&j.rec); {
	case isValueError(err):
		m = modeForward
		w.dropJSON(msgpack.DropValues, p)
	case err != nil:
		return -1, malformed(because(errJSONShape, err))
	case j.rec.Nodes[0].Kind == mapping.Array:
		m = modeForward
		err = c.jsonEntries(w, id)
		if err != nil {
			return -1, err
		}
	default:
		if err := c.jsonMessage(w, p, id); err != nil {
			return -1, err
		}
	}
	c.count(m, len(p))
	c.dropped(&j.drops, j.tag)
	return jsonChunk(j)
}

// jsonChunk reads the option, if there is one, into j.rec.
func jsonChunk(j *jsonWork) (int, error) {
	err := j.stream.Next(&j.rec)
	if err == io.EOF {
		return -1, nil
	}
	if err != nil {
		return -1, malformed(err)
	}
	switch j.rec.Nodes[0].Kind {
	case mapping.Null:
		return -1, nil
	case mapping.Map:
	default:
		return -1, malformed(errOption)
	}
	i := j.rec.Field(0, "chunk")
	if i < 0 || j.rec.Nodes[i].Kind == mapping.Null {
		return -1, nil
	}
	if len(j.rec.Nodes[i].Str) > maxChunk || j.rec.Nodes[i].Kind >= mapping.Array {
		return -1, malformed(errChunk)
	}
	return i, nil
}

func isValueError(err error) bool {
	var v *mapping.ValueError
	return errors.As(err, &v)
}

// because adds what the parser says, if that is anything.
func because(what, err error) error {
	if err == nil || err == io.EOF {
		return what
	}
	return fmt.Errorf("%w: %w", what, err)
}

// jsonMessage maps the event whose time is in w.json.rec and whose record comes
// next.
func (c *conn) jsonMessage(w *worker, p []byte, id identity) error {
	j := &w.json
	ts, ok := c.jsonTime(&j.rec, 0)
	if err := j.stream.Next(&j.rec); isValueError(err) {
		w.dropJSON(msgpack.DropValues, p)
		return nil
	} else if err != nil {
		return malformed(because(errJSONShape, err))
	}
	return c.jsonEvent(w, id, &j.rec, ts, ok)
}

// jsonEntries maps the entries in w.json.rec.
func (c *conn) jsonEntries(w *worker, id identity) error {
	j := &w.json
	for i := 1; i < len(j.rec.Nodes); i = j.rec.Next(i) {
		end := j.rec.Next(i)
		if j.rec.Nodes[i].Kind != mapping.Array || i+1 >= end || j.rec.Next(i+1) >= end {
			w.dropJSON(msgpack.DropShape, mapping.AppendJSON(nil, &j.rec, i))
			continue
		}
		ts, ok := c.jsonTime(&j.rec, i+1)
		at := j.rec.Next(i + 1)
		j.one.Nodes = append(j.one.Nodes[:0], j.rec.Nodes[at:j.rec.Next(at)]...)
		for k := range j.one.Nodes {
			j.one.Nodes[k].End -= int32(at)
		}
		if err := c.jsonEvent(w, id, &j.one, ts, ok); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) jsonEvent(w *worker, id identity, rec *mapping.Record, ts int64, ok bool) error {
	switch {
	case !ok:
		w.dropJSON(msgpack.DropTime, mapping.AppendJSON(nil, rec, 0))
	case rec.Nodes[0].Kind != mapping.Map:
		w.dropJSON(msgpack.DropRecord, mapping.AppendJSON(nil, rec, 0))
	default:
		w.in.TS = ts
		return c.add(w, rec, id)
	}
	return nil
}

// dropJSON counts and keeps what is no event.
func (w *worker) dropJSON(why msgpack.Drop, raw []byte) {
	w.json.drops.Drops[why]++
	w.bury(why, raw)
}

// jsonTime reads node i as a time: a number, as package mapping reads it, or
// null for now.
func (c *conn) jsonTime(r *mapping.Record, i int) (ns int64, ok bool) {
	switch r.Nodes[i].Kind {
	case mapping.Null:
		return c.now(), true
	case mapping.Number:
		ns, ok = mapping.NodeTime(r, i)
		if ok && ns > -1e9 && ns < 1e9 {
			ns = c.now()
		}
		return ns, ok
	}
	return 0, false
}
