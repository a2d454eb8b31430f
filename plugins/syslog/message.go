package syslog

import (
	"bytes"
	"time"
)

// format is what a message was understood as.
type format uint8

const (
	formatText format = iota // no time: all behind the priority is the text
	formatBSD
	formatRFC5424
	numFormats
)

func (f format) String() string {
	return [numFormats]string{"text", "rfc3164", "rfc5424"}[f]
}

// message is a parsed message. Its slices point into the bytes that were
// parsed; what the sender has left out is nil.
type message struct {
	format   format
	priority uint8 // facility * 8 + severity
	ts       int64 // ns since the epoch
	hostname []byte
	appName  []byte
	procID   []byte
	msgID    []byte
	sequence []byte  // Cisco's number of the message
	params   []param // structured data
	text     []byte
}

// param is a parameter of structured data. An element without any is one
// without a name.
type param struct {
	id, name, value []byte
	escaped         bool // value has backslashes before characters that need it
}

// Facility and severity of a message without a priority: RFC 3164, 4.3.3.
const userNotice = 1*8 + 5

func (m *message) severity() uint8 { return m.priority & 7 }
func (m *message) facility() uint8 { return m.priority >> 3 }

// parser knows what messages do not say.
type parser struct {
	zone *time.Location // of times without one
}

// parse reads b, which arrived at now (ns since the epoch). Everything is a
// message: what is not understood is its text.
func (p *parser) parse(m *message, b []byte, now int64) {
	*m = message{priority: userNotice, ts: now, params: m.params[:0]}
	at := m.readPriority(b)
	if at > 0 && p.rfc5424(m, b, at) {
		return
	}
	p.bsd(m, b, at)
}

// readPriority returns the index behind <n>, or 0 if there is none.
func (m *message) readPriority(b []byte) int {
	if len(b) < 3 || b[0] != '<' {
		return 0
	}
	v, i := 0, 1
	for ; i < len(b) && i < 4 && isDigit(b[i]); i++ {
		v = v*10 + int(b[i]-'0')
	}
	if i == 1 || i == len(b) || b[i] != '>' || v > 23*8+7 {
		return 0
	}
	m.priority = uint8(v)
	return i + 1
}

// token returns the bytes up to the next space and the index behind it.
func token(b []byte, at int) (tok []byte, next int) {
	if i := bytes.IndexByte(b[at:], ' '); i >= 0 {
		return b[at : at+i : at+i], at + i + 1
	}
	return b[at:], len(b)
}

// trim removes what ends a message that is not cut out of a stream: senders
// put a line end or a NUL into datagrams and count them with the message.
func trim(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
		if n := len(b); n > 0 && b[n-1] == '\r' {
			b = b[:n-1]
		}
	}
	return b
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
