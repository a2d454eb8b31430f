// Package find looks for a text in large pieces of logs.
//
// It compares two bytes of the text at a time, those that logs have least of,
// wherever they may be in the text. On amd64 that is done for 64 places at
// once.
package find

import "bytes"

// Finder looks for one text. It is read-only; the zero Finder has no text.
type Finder struct {
	text          []byte
	first, second int // places of two bytes in text, in this order
}

// New returns a Finder of text, which must not change.
func New(text []byte) Finder {
	f := Finder{text: text}
	if len(text) < 2 {
		return f
	}
	f.first = RareByte(text)
	f.second = RareByte(text[:f.first])
	if rest := text[f.first+1:]; len(rest) > 0 {
		if at := f.first + 1 + RareByte(rest); f.first == 0 || frequency(text[at]) < frequency(text[f.second]) {
			f.second = at
		}
	}
	if f.second < f.first {
		f.first, f.second = f.second, f.first
	}
	return f
}

// Text returns what is looked for.
func (f *Finder) Text() []byte { return f.text }

// Index returns the first place of the text in b, -1 if there is none. The
// empty text is at 0.
func (f *Finder) Index(b []byte) int {
	n := len(f.text)
	if n < 2 {
		if n == 0 {
			return 0
		}
		return bytes.IndexByte(b, f.text[0])
	}
	if len(b) < n {
		return -1
	}
	// A place is one of the first byte, from which the second is distance away.
	distance := f.second - f.first
	area := b[f.first : len(b)-n+f.second+1]
	wasted, cost := 0, 1+n/64
	for at := 0; ; at++ {
		i := pair(area[at:], distance, f.text[f.first], f.text[f.second])
		if i < 0 {
			return -1
		}
		if at += i; bytes.Equal(b[at:at+n], f.text) {
			return at
		}
		// Where the pair is everywhere, package bytes is better: its time is
		// bounded whatever the text.
		if wasted += cost; wasted > 16+at/8 {
			if i = bytes.Index(b[at+1:], f.text); i >= 0 {
				i += at + 1
			}
			return i
		}
	}
}

// RareByte returns the place of the byte of text that is least frequent in
// logs, the first of them; 0 if there is no text.
func RareByte(text []byte) (at int) {
	for i, c := range text {
		if frequency(c) < frequency(text[at]) {
			at = i
		}
	}
	return at
}

// frequency ranks bytes by how often they are met in logs, roughly.
func frequency(c byte) int {
	if i := bytes.IndexByte([]byte("zqxjkwvyb_fhpgmucdlrnsoiate"), c); i >= 0 {
		return i
	}
	if c >= '0' && c <= '9' || c == ' ' {
		return 40
	}
	return 10
}

// pairGeneric is pair in Go.
func pairGeneric(b []byte, distance int, first, second byte) int {
	for at := 0; at < len(b)-distance; at++ {
		i := bytes.IndexByte(b[at:len(b)-distance], first)
		if i < 0 {
			return -1
		}
		if at += i; b[at+distance] == second {
			return at
		}
	}
	return -1
}
