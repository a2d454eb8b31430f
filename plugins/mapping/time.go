package mapping

import (
	"math"
	"math/bits"
	"strconv"
)

// NodeTime reads node i of r as a time, in nanoseconds since the epoch: a
// string as ParseTime, a number as ParseEpoch. ok is false for anything else.
func NodeTime(r *Record, i int) (ns int64, ok bool) {
	n := &r.Nodes[i]
	var buf [32]byte
	switch n.Kind {
	case String, Bytes:
		return ParseTime(n.Str)
	case Number:
		return ParseEpoch(n.Str)
	case Int:
		return ParseEpoch(strconv.AppendInt(buf[:0], int64(n.Num), 10))
	case Uint:
		return ParseEpoch(strconv.AppendUint(buf[:0], n.Num, 10))
	case Float:
		f := math.Float64frombits(n.Num)
		if math.IsNaN(f) || math.Abs(f) > 1e19 {
			return 0, false
		}
		// The shortest text has the digits that the sender meant; the binary
		// fraction has not.
		return ParseEpoch(strconv.AppendFloat(buf[:0], f, 'e', -1, 64))
	}
	return 0, false
}

// ParseTime reads a time as nanoseconds since the epoch, exact to the digit:
// RFC 3339 with any number of fraction digits (those behind the ninth are cut
// off), also with a space for the T (java.sql.Timestamp) and without a zone,
// which then is UTC; or a number, as ParseEpoch. ok is false for anything else
// and for times that int64 nanoseconds cannot say (before 1677, after 2262).
func ParseTime(s []byte) (ns int64, ok bool) {
	if len(s) < 19 || s[4] != '-' {
		return ParseEpoch(s)
	}
	year, ok1 := digitsAt(s, 0, 4)
	month, ok2 := digitsAt(s, 5, 2)
	day, ok3 := digitsAt(s, 8, 2)
	hour, ok4 := digitsAt(s, 11, 2)
	minute, ok5 := digitsAt(s, 14, 2)
	sec, ok6 := digitsAt(s, 17, 2)
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6) || s[7] != '-' || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	if c := s[10]; c != 'T' && c != 't' && c != ' ' {
		return 0, false
	}
	// Second 60 is a leap second: it is the first one of the next minute.
	if month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || sec > 60 {
		return 0, false
	}
	s = s[19:]
	nanos := int64(0)
	if len(s) > 0 && (s[0] == '.' || s[0] == ',') {
		unit := int64(1e8)
		i := 1
		for ; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
			nanos += int64(s[i]-'0') * unit
			unit /= 10
		}
		if i == 1 {
			return 0, false
		}
		s = s[i:]
	}
	offset, ok := zone(s)
	if !ok {
		return 0, false
	}
	seconds := days(year, month, day)*86400 + hour*3600 + minute*60 + sec - offset
	return join(seconds, nanos)
}

// zone reads Z, +hh:mm, +hhmm, +hh or nothing as seconds east of UTC.
func zone(s []byte) (int64, bool) {
	if len(s) > 1 && s[0] == ' ' { // "2026-09-21 14:13:20 +0000"
		s = s[1:]
	}
	if len(s) == 0 || len(s) == 1 && s[0]|0x20 == 'z' || string(s) == "UTC" {
		return 0, true
	}
	if s[0] != '+' && s[0] != '-' {
		return 0, false
	}
	hours, ok := digitsAt(s, 1, 2)
	minutes := int64(0)
	if ok {
		switch {
		case len(s) == 3:
		case len(s) == 5:
			minutes, ok = digitsAt(s, 3, 2)
		case len(s) == 6 && s[3] == ':':
			minutes, ok = digitsAt(s, 4, 2)
		default:
			ok = false
		}
	}
	if !ok || hours > 23 || minutes > 59 {
		return 0, false
	}
	offset := hours*3600 + minutes*60
	if s[0] == '-' {
		offset = -offset
	}
	return offset, true
}

// join makes nanoseconds of seconds and a fraction (0 to 1e9-1).
func join(seconds, nanos int64) (int64, bool) {
	const limit = math.MaxInt64 / 1_000_000_000
	if seconds >= limit || seconds <= -limit {
		return 0, false
	}
	return seconds*1e9 + nanos, true
}

func digitsAt(s []byte, i, n int) (int64, bool) {
	if i+n > len(s) {
		return 0, false
	}
	v := int64(0)
	for _, c := range s[i : i+n] {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int64(c-'0')
	}
	return v, true
}

func leap(year int64) bool { return year%4 == 0 && (year%100 != 0 || year%400 == 0) }

func daysIn(year, month int64) int64 {
	switch month {
	case 2:
		if leap(year) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// days returns the days from 1970-01-01 to a date of the Gregorian calendar.
// Years are counted from March, so that the leap day is the last of its year.
func days(year, month, day int64) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	return 365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 719469
}

// ParseEpoch reads a number as a time since the epoch, in nanoseconds. Its
// size tells the unit: seconds up to 1e11 (the year 5138), milliseconds up to
// 1e14, microseconds up to 1e17, else nanoseconds. A fraction and an exponent
// are taken digit by digit, so that 1790000000.123456789 is exact; what is
// finer than a nanosecond is cut off.
func ParseEpoch(s []byte) (ns int64, ok bool) {
	neg := false
	if len(s) > 0 && s[0] == '-' {
		neg, s = true, s[1:]
	}
	m, exp, ok := decimal(s)
	if !ok {
		return 0, false
	}
	if m == 0 {
		return 0, true
	}
	// Digits before the point, of m * 10^exp.
	switch n := decimalLen(m) + exp; {
	case n <= 11:
		exp += 9
	case n <= 14:
		exp += 6
	case n <= 17:
		exp += 3
	}
	for ; exp < 0 && m > 0; exp++ {
		m /= 10
	}
	for ; exp > 0 && m > 0; exp-- {
		hi, lo := bits.Mul64(m, 10)
		if hi != 0 {
			return 0, false
		}
		m = lo
	}
	if m > math.MaxInt64 {
		return 0, false
	}
	if neg {
		return -int64(m), true
	}
	return int64(m), true
}

// decimal reads digits, a fraction and an exponent as m * 10^exp. Digits behind
// the 19th that uint64 cannot hold are cut off.
func decimal(s []byte) (m uint64, exp int, ok bool) {
	point, seen, i := false, false, 0
	for ; i < len(s); i++ {
		c := s[i]
		if c == '.' && !point && seen {
			point = true
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		seen = true
		switch {
		case m < 1e18:
			m = m*10 + uint64(c-'0')
			if point {
				exp--
			}
		case !point:
			exp++
		}
	}
	if !seen || s[i-1] == '.' {
		return 0, 0, false
	}
	if i == len(s) {
		return m, exp, true
	}
	if s[i]|0x20 != 'e' {
		return 0, 0, false
	}
	i++
	sign := 1
	if i < len(s) && (s[i] == '+' || s[i] == '-') {
		if s[i] == '-' {
			sign = -1
		}
		i++
	}
	// Four digits are more than any time has; they also bound the work.
	if i == len(s) || len(s)-i > 4 {
		return 0, 0, false
	}
	e, ok := digitsAt(s, i, len(s)-i)
	return m, exp + sign*int(e), ok
}

func decimalLen(v uint64) int {
	n := 1
	for ; v >= 10; v /= 10 {
		n++
	}
	return n
}
