package forward

import (
	"errors"
	"fmt"

	"github.com/loki-go/loki-go/plugins/msgpack"
)

// mode is how a message carries its events.
type mode uint8

const (
	modeMessage mode = iota
	modeForward
	modePacked
	modeCompressed
	numModes
)

var modeNames = [numModes]string{"message", "forward", "packed", "compressed"}

func (m mode) String() string { return modeNames[m] }

// message is one message of a client. All slices are parts of raw.
type message struct {
	raw  []byte
	mode mode
	tag  []byte
	body []byte // Forward: the entries, one behind the other; packed: as sent

	timeAt, recordAt int // Message: where they are in raw

	chunk      []byte // the option's value, as it came; nil: no ack is wanted
	compressed []byte
	signal     int64
	meta       []byte // the option's value; nil: none
}

// Limits of what is repeated: the tag with each entry, the chunk id in the ack.
// Clients read at most 511 bytes of an ack.
const (
	maxTag   = 4096
	maxChunk = 1024
)

var (
	errTag     = fmt.Errorf("its first element is no tag, a string of at most %d bytes", maxTag)
	errOption  = errors.New("its option is neither a map nor nil")
	errChunk   = fmt.Errorf("its chunk id has more than %d bytes", maxChunk)
	errTooFew  = errors.New("it has too few elements")
	errNoArray = errors.New("it is not an array")
)

// parseMessage takes the message apart that frame has found at the start of p.
// It is valid until the next one is, which o is used for.
func parseMessage(p []byte, frame *msgpack.Frame, o *options) (m message, err error) {
	m = message{raw: p}
	elems, ok := frame.Elems()
	if !ok {
		return m, errNoArray
	}
	if elems < 2 {
		return m, errTooFew
	}
	from, to := frame.Elem(p, 0)
	if m.tag, _, ok = msgpack.ReadString(p[:to], from); !ok || len(m.tag) > maxTag {
		return m, errTag
	}
	option := 2
	from, to = frame.Elem(p, 1)
	if _, first, ok := msgpack.ReadArray(p, from); ok {
		m.mode, m.body = modeForward, p[first:to]
	} else if body, _, ok := msgpack.ReadString(p[:to], from); ok {
		m.mode, m.body = modePacked, body
	} else {
		if elems < 3 {
			return m, errTooFew
		}
		m.timeAt = from
		m.recordAt, _ = frame.Elem(p, 2)
		option = 3
	}
	if elems > option {
		from, to = frame.Elem(p, option)
		err = o.read(&m, p[from:to])
	}
	return m, err
}

// firstByte explains why a message cannot start with c, or returns nil. What
// it knows are the usual mistakes of those who configure agents.
func firstByte(c byte) error {
	switch {
	case c&0xf0 == 0x90 || c == 0xdc || c == 0xdd || c == 0xc0:
		return nil
	case c == 0x16:
		return errors.New("it starts like TLS, which this port does not speak")
	case c >= 'A' && c <= 'Z':
		return errors.New("it starts like HTTP or another text protocol")
	}
	return fmt.Errorf("it starts with the byte 0x%02x, which no forward message does", c)
}
