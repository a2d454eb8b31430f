// Package find looks for a text in large pieces of logs.
//
// It compares two bytes of the text at a time, those that logs have least of,
// wherever they may be in the text. On amd64 that is done for 64 places at
// once.
package find

import (
	"bytes"
	"math"
)

// MaxTexts is how many texts a Finder looks for.
const MaxTexts = 8

// Text is what is looked for.
type Text struct {
	Text []byte
	Fold bool // letters of ASCII in any case; those of Text are small
}

// Finder looks for one text, or for any of some. It is read-only; the zero
// Finder has no text, and finds that everywhere.
type Finder struct{ texts []finder }

// finder looks for one text.
type finder struct {
	Text
	first, second         int // places of two bytes in the text, in this order
	firstFold, secondFold byte
}

// New returns a Finder of text, which must not change.
func New(text []byte) Finder { return NewAny([]Text{{Text: text}}) }

// NewAny returns a Finder of any of texts, which must not change. Of more than
// MaxTexts it finds everything.
func NewAny(texts []Text) Finder {
	if len(texts) > MaxTexts {
		return Finder{}
	}
	f := Finder{texts: make([]finder, len(texts))}
	for i, t := range texts {
		if len(t.Text) == 0 {
			return Finder{}
		}
		f.texts[i] = newFinder(t)
	}
	return f
}

func newFinder(t Text) finder {
	f := finder{Text: t}
	text := t.Text
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
	f.firstFold, f.secondFold = f.fold(f.first), f.fold(f.second)
	return f
}

// fold returns what to set in a byte so that it is that at i, in any case.
func (f *finder) fold(i int) byte {
	if c := f.Text.Text[i]; f.Fold && c >= 'a' && c <= 'z' {
		return 'a' - 'A'
	}
	return 0
}

// Everywhere reports whether there is no text to look for.
func (f *Finder) Everywhere() bool { return len(f.texts) == 0 }

// Index returns the first place of a text in b, -1 if there is none. No text is
// at 0.
func (f *Finder) Index(b []byte) int {
	if len(f.texts) == 0 {
		return 0
	}
	at := -1
	for i := range f.texts {
		t := &f.texts[i]
		area := b
		if at >= 0 {
			area = b[:min(len(b), at+len(t.Text.Text))] // a later one is not the first
		}
		if n := t.index(area); n >= 0 && (at < 0 || n < at) {
			at = n
		}
	}
	return at
}

// index returns the first place of the text in b, -1 if there is none.
func (f *finder) index(b []byte) int {
	text := f.Text.Text
	n := len(text)
	if len(b) < n {
		return -1
	}
	if n == 1 && f.firstFold == 0 {
		return bytes.IndexByte(b, text[0])
	}
	// A place is one of the first byte, from which the second is distance away.
	distance := f.second - f.first
	area := b[f.first : len(b)-n+f.second+1]
	wasted, cost := 0, 1+n/64
	for at := 0; ; at++ {
		i := pair(area[at:], distance, text[f.first], text[f.second], f.firstFold, f.secondFold)
		if i < 0 {
			return -1
		}
		if at += i; f.equal(b[at : at+n]) {
			return at
		}
		// Where the pair is everywhere, package bytes is better: its time is
		// bounded whatever the text.
		if wasted += cost; wasted > 16+at/8 && !f.Fold {
			if i = bytes.Index(b[at+1:], text); i >= 0 {
				i += at + 1
			}
			return i
		}
	}
}

// equal reports whether b, which is as long as the text, is the text.
func (f *finder) equal(b []byte) bool {
	if !f.Fold {
		return bytes.Equal(b, f.Text.Text)
	}
	for i, c := range f.Text.Text {
		if b[i] != c && (c < 'a' || c > 'z' || b[i]|('a'-'A') != c) {
			return false
		}
	}
	return true
}

// Places are those of the texts of a Finder in a piece of logs, for who asks
// for them in order.
type Places struct {
	f    *Finder
	b    []byte
	next [MaxTexts]int // of each text, the place that was found last
}

// Places returns those in b, of which Index has given the first.
func (f *Finder) Places(b []byte, first int) Places {
	p := Places{f: f, b: b}
	for i := range f.texts {
		p.next[i] = -1
	}
	if first < 0 {
		first = math.MaxInt
	}
	if len(f.texts) == 1 {
		p.next[0] = first
	}
	return p
}

// From returns the first place at i or behind, -1 if there is none; i is not
// less than in the last call.
func (p *Places) From(i int) int {
	if len(p.f.texts) == 0 {
		return i
	}
	at := math.MaxInt
	for k := range p.f.texts {
		if p.next[k] < i {
			p.next[k] = math.MaxInt
			if n := p.f.texts[k].index(p.b[i:]); n >= 0 {
				p.next[k] = i + n
			}
		}
		at = min(at, p.next[k])
	}
	if at == math.MaxInt {
		return -1
	}
	return at
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
func pairGeneric(b []byte, distance int, first, second, firstFold, secondFold byte) int {
	for at := range max(0, len(b)-distance) {
		if b[at]|firstFold == first && b[at+distance]|secondFold == second {
			return at
		}
	}
	return -1
}
