package syslog

import (
	"bytes"
	"unicode/utf8"
)

// A counted message may be this many times as large as one entry; it becomes
// as many. A greater count is taken for text: it would swallow what follows.
const mostParts = 16

// framer cuts a stream into messages as RFC 6587 has them. Each message says
// for itself how it ends:
//
//	12 <13>message      octet counting: a number, a space, and that many bytes,
//	                    the first of which is the < of the priority
//	<13>message LF      else it ends with LF, CR LF or NUL, or with the stream
//
// A message of more than max bytes comes in several frames.
type framer struct {
	max  int
	mode frameMode
	cont bool // a frame of the message has been returned
	left int  // counted: bytes still to come
	seen int  // line: bytes that have no end in them

	disbelieved bool // the message began with a count that is too large
}

type frameMode uint8

const (
	between frameMode = iota // messages
	counted
	line
)

// frame is a message, or a part of one.
type frame struct {
	text        []byte
	first, last bool
	cut         bool // the stream ended before the message did
	disbelieved bool // it began with a count that is too large
}

// next returns the frame that p starts with. p goes on where the last one
// ended: size says how many bytes of p are done with, also if there is no frame
// (ok is false), which means that it takes more bytes. After eof there are none.
func (f *framer) next(p []byte, eof bool) (fr frame, size int, ok bool) {
	if f.mode == between {
		for size < len(p) && (p[size] == '\n' || p[size] == 0) {
			size++
		}
		if size == len(p) {
			return fr, size, false
		}
		n, digits, state := count(p[size:])
		if state == countUndecided && !eof {
			return fr, size, false
		}
		f.cont, f.disbelieved = false, false
		switch {
		case state == countYes && n <= mostParts*f.max:
			f.mode, f.left = counted, n
			size += digits + 1
		default:
			f.mode, f.seen = line, 0
			f.disbelieved = state == countYes
		}
	}
	var n int
	if f.mode == counted {
		n, ok = f.counted(&fr, p[size:], eof)
	} else {
		n, ok = f.line(&fr, p[size:], eof)
	}
	if !ok {
		return frame{}, size, false
	}
	fr.first, fr.disbelieved = !f.cont, f.disbelieved
	f.cont, f.disbelieved = true, false
	if fr.last {
		f.mode = between
	}
	return fr, size + n, true
}

// started reports whether part of a message has been seen that no frame has
// ended.
func (f *framer) started() bool { return f.mode != between }

func (f *framer) counted(fr *frame, p []byte, eof bool) (n int, ok bool) {
	switch {
	case len(p) >= f.left && f.left <= f.max:
		n, fr.last = f.left, true
	case len(p) >= f.max:
		n = wholeRunes(p, f.max)
	case eof:
		n, fr.last, fr.cut = len(p), true, true
	default:
		return 0, false
	}
	f.left -= n
	fr.text = p[:n]
	return n, true
}

func (f *framer) line(fr *frame, p []byte, eof bool) (n int, ok bool) {
	window := p[:min(len(p), f.max+2)] // the longest line, CR and LF
	if i := lineEnd(window[f.seen:]); i >= 0 {
		n = f.seen + i
		fr.text, fr.last = p[:n], true
		if n > 0 && p[n] == '\n' && p[n-1] == '\r' {
			fr.text = p[:n-1]
		}
		if len(fr.text) <= f.max {
			return n + 1, true
		}
	}
	f.seen = len(window)
	switch {
	case len(window) > f.max && (len(window) > f.max+1 || window[f.max] != '\r' || eof):
		n = wholeRunes(p, f.max)
		fr.last, f.seen = false, 0
	case eof && len(p) > 0:
		n, fr.last = len(p), true
	case eof:
		// A part of the message ended where the stream does.
		fr.last = true
	default:
		return 0, false
	}
	fr.text = p[:n]
	return n, true
}

// lineEnd returns the index of the first LF or NUL.
func lineEnd(p []byte) int {
	lf := bytes.IndexByte(p, '\n')
	if lf >= 0 {
		p = p[:lf]
	}
	if nul := bytes.IndexByte(p, 0); nul >= 0 {
		return nul
	}
	return lf
}

// wholeRunes returns the largest number up to n at which p can be cut without
// cutting a character, or n if p is no UTF-8 there.
func wholeRunes(p []byte, n int) int {
	if n >= len(p) {
		return n
	}
	for back := range utf8.UTFMax {
		if utf8.RuneStart(p[n-back]) {
			return n - back
		}
	}
	return n
}

type countState uint8

const (
	countNo countState = iota
	countYes
	countUndecided
)

// count reads the count that p, which is not empty, may start with.
func count(p []byte) (n, digits int, state countState) {
	const most = 9 // digits
	if p[0] < '1' || p[0] > '9' {
		return 0, 0, countNo
	}
	for ; digits < len(p) && p[digits] >= '0' && p[digits] <= '9'; digits++ {
		if digits == most {
			return 0, 0, countNo
		}
		n = n*10 + int(p[digits]-'0')
	}
	rest := p[digits:]
	switch {
	case len(rest) > 1 && rest[0] == ' ' && rest[1] == '<':
		return n, digits, countYes
	case len(rest) == 0, len(rest) == 1 && rest[0] == ' ':
		return 0, 0, countUndecided
	}
	return 0, 0, countNo
}
