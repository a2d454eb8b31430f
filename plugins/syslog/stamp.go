package syslog

import (
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// dateTime reads an RFC 3339 time, also one without a zone.
func (p *parser) dateTime(s []byte) (ns int64, ok bool) {
	if len(s) < 19 || s[4] != '-' {
		return 0, false
	}
	if ns, ok = mapping.ParseTime(s); !ok {
		return 0, false
	}
	if last := s[len(s)-1]; last|0x20 == 'z' || hasOffset(s[19:]) {
		return ns, true
	}
	return p.inZone(ns), true
}

func hasOffset(s []byte) bool {
	for _, c := range s {
		if c == '+' || c == '-' {
			return true
		}
	}
	return false
}

// inZone returns the time at which the clocks of the parser's zone show what
// those of UTC show at ns.
func (p *parser) inZone(ns int64) int64 {
	t := time.Unix(0, ns).UTC()
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), p.zone).UnixNano()
}

// clock is a time as a message has it.
type clock struct {
	year             int // 0: not said
	month            time.Month
	day, h, min, sec int
	nanos            int
	zone             *time.Location // if the message names none
	fixed            bool           // it does: seconds east of UTC
	offset           int
}

// stamp reads the time at b[at:], which arrived at now, and returns the index
// behind it and behind a colon that follows. These are understood:
//
//	2026-09-21T14:13:20.123456+02:00   also with a space for the T, or no zone
//	Sep 21 14:13:20                    RFC 3164
//	*Sep 21 2026 14:13:20.123 UTC:     Cisco IOS, ASA; the mark says that the
//	                                   clock is not in sync
//	2026 Sep 21 14:13:20 UTC:          Cisco NX-OS
//	Sep 21 14:13:20 2026               some switches
func (p *parser) stamp(b []byte, at int, now int64) (ns int64, end int, colon, ok bool) {
	i := at
	if i < len(b) && (b[i] == '*' || b[i] == '.') {
		i++
	}
	if len(b)-i < 15 {
		return 0, 0, false, false
	}
	if isDigit(b[i]) && b[i+4] == '-' {
		ns, i, ok = p.dateAt(b, i)
	} else {
		c := clock{zone: p.zone}
		if i, ok = c.read(b, i); ok {
			ns, ok = c.time(now)
		}
	}
	if !ok {
		return 0, 0, false, false
	}
	if i < len(b) && b[i] == ':' {
		colon = true
		i++
	}
	if i < len(b) {
		if b[i] != ' ' {
			return 0, 0, false, false
		}
		i++
	}
	return ns, i, colon, true
}

// dateAt reads a time in the manner of RFC 3339.
func (p *parser) dateAt(b []byte, at int) (ns int64, end int, ok bool) {
	_, next := token(b, at)
	if next == at+11 { // a space for the T
		_, next = token(b, next)
	}
	end = next
	if end > at && b[end-1] == ' ' {
		end--
	}
	if b[end-1] == ':' {
		end--
	}
	ns, ok = p.dateTime(b[at:end])
	return ns, end, ok
}

// read fills c from b[i:] and returns the index behind it.
func (c *clock) read(b []byte, i int) (end int, ok bool) {
	if isDigit(b[i]) { // NX-OS
		if c.year, i, ok = year(b, i); !ok || i >= len(b) || b[i] != ' ' {
			return 0, false
		}
		i++
	}
	if c.month, ok = month(b, i); !ok {
		return 0, false
	}
	i = skipSpaces(b, i+3)
	if c.day, i, ok = number(b, i, 2); !ok || i >= len(b) || b[i] != ' ' {
		return 0, false
	}
	i = skipSpaces(b, i)
	if c.year == 0 {
		if y, j, ok := year(b, i); ok && j < len(b) && b[j] == ' ' {
			c.year, i = y, j+1
		}
	}
	if i, ok = c.timeOfDay(b, i); !ok {
		return 0, false
	}
	i = c.readZone(b, i)
	if c.year == 0 && i < len(b) && b[i] == ' ' {
		if y, j, ok := year(b, i+1); ok && (j == len(b) || b[j] == ' ' || b[j] == ':') {
			c.year, i = y, j
		}
	}
	return i, true
}

func (c *clock) timeOfDay(b []byte, i int) (end int, ok bool) {
	for k, v := range []*int{&c.h, &c.min, &c.sec} {
		if k > 0 {
			if i >= len(b) || b[i] != ':' {
				return 0, false
			}
			i++
		}
		if *v, i, ok = number(b, i, 2); !ok {
			return 0, false
		}
	}
	if i+1 < len(b) && (b[i] == '.' || b[i] == ',') && isDigit(b[i+1]) {
		unit := 100_000_000
		for i++; i < len(b) && isDigit(b[i]); i++ {
			c.nanos += int(b[i]-'0') * unit
			unit /= 10
		}
	}
	return i, true
}

// readZone reads a zone at b[i:] if there is one. What could be the name of a
// host is a zone only if a colon follows, as Cisco writes it.
func (c *clock) readZone(b []byte, i int) (end int) {
	if i >= len(b) || b[i] == ':' {
		return i
	}
	j := i
	if b[j] == ' ' {
		j++
	}
	k := j
	for k < len(b) && b[k] != ' ' && k-j < 7 && (b[k] != ':' || k+1 < len(b) && isDigit(b[k+1])) {
		k++
	}
	name := b[j:k]
	if k < len(b) && b[k] != ' ' && b[k] != ':' || len(name) == 0 {
		return i
	}
	if off, ok := offset(name); ok {
		c.fixed, c.offset = true, off
		return k
	}
	off, ok := zoneHours[string(name)]
	colon := k < len(b) && b[k] == ':'
	switch {
	case ok && (colon || off == 0 && len(name) == 3):
		c.fixed, c.offset = true, int(off*3600)
	case colon && len(name) > 1 && len(name) < 6 && allLetters(name) && j > i:
		// A zone that is not known here is most likely this one.
	default:
		return i
	}
	return k
}

// zoneHours are the zones of RFC 822 and those that devices are set to most,
// where the letters stand for one zone in practice.
var zoneHours = map[string]float64{
	"Z": 0, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "BST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "MSK": 3,
	"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "JST": 9, "KST": 9,
	"AEST": 10, "AEDT": 11, "AWST": 8, "ACST": 9.5, "ACDT": 10.5, "NZST": 12, "NZDT": 13,
}

func allLetters(s []byte) bool {
	for _, c := range s {
		if !isLetter(c) {
			return false
		}
	}
	return true
}

// offset reads +hh:mm or +hhmm as seconds.
func offset(s []byte) (int, bool) {
	if len(s) < 5 || s[0] != '+' && s[0] != '-' {
		return 0, false
	}
	h, i, ok1 := number(s, 1, 2)
	if i < len(s) && s[i] == ':' {
		i++
	}
	m, i, ok2 := number(s, i, 2)
	if !ok1 || !ok2 || i != len(s) || h > 23 || m > 59 {
		return 0, false
	}
	if s[0] == '-' {
		return -(h*3600 + m*60), true
	}
	return h*3600 + m*60, true
}

// ahead is how far ahead of this machine's clock a time may be: zones may be
// mistaken, and clocks be wrong.
const ahead = int64(48 * time.Hour)

// time returns the time that c says. If the year is missing it is the newest
// time that is not ahead of now (ns since the epoch): a message of New Year's Eve
// may arrive a second later, or one of New Year a second too early.
func (c *clock) time(now int64) (ns int64, ok bool) {
	// Second 60 is a leap second: it is the first one of the next minute.
	if c.day < 1 || c.h > 23 || c.min > 59 || c.sec > 60 {
		return 0, false
	}
	if c.year != 0 {
		return c.in(c.year)
	}
	// The 29th of February may be eight years away.
	last := time.Unix(0, now+ahead).In(c.zone).Year()
	for y := last; y >= last-9; y-- {
		if ns, ok = c.in(y); ok && ns <= now+ahead {
			return ns, true
		}
	}
	return 0, false
}

// in returns the time in a year that has the day.
func (c *clock) in(year int) (ns int64, ok bool) {
	if c.day > 28 && time.Date(year, c.month, c.day, 0, 0, 0, 0, time.UTC).Month() != c.month {
		return 0, false
	}
	zone := c.zone
	if c.fixed {
		zone = time.UTC
	}
	t := time.Date(year, c.month, c.day, c.h, c.min, c.sec, c.nanos, zone)
	return t.UnixNano() - int64(c.offset)*1e9, true
}

// year reads four digits that are a year which int64 nanoseconds can say.
func year(b []byte, i int) (y, end int, ok bool) {
	y, end, ok = number(b, i, 4)
	return y, end, ok && end == i+4 && y >= 1970 && y < 2262
}

// number reads up to most digits.
func number(b []byte, i, most int) (v, end int, ok bool) {
	end = i
	for end < len(b) && end < i+most && isDigit(b[end]) {
		v = v*10 + int(b[end]-'0')
		end++
	}
	return v, end, end > i
}

func skipSpaces(b []byte, i int) int {
	for i < len(b) && b[i] == ' ' {
		i++
	}
	return i
}

// month reads the first three letters of a month and the space behind them.
func month(b []byte, i int) (time.Month, bool) {
	if len(b)-i < 4 || b[i+3] != ' ' {
		return 0, false
	}
	const names = "janfebmaraprmayjunjulaugsepoctnovdec"
	x, y, z := b[i]|0x20, b[i+1]|0x20, b[i+2]|0x20
	for k := 0; k < len(names); k += 3 {
		if names[k] == x && names[k+1] == y && names[k+2] == z {
			return time.Month(k/3 + 1), true
		}
	}
	return 0, false
}
