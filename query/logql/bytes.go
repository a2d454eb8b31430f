package logql

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// byteUnits are the sizes of units in lower case. The empty unit is a byte.
var byteUnits = func() map[string]float64 {
	m := map[string]float64{"": 1, "b": 1}
	si, iec := 1.0, 1.0
	for _, p := range "kmgtpe" {
		si *= 1000
		iec *= 1024
		m[string(p)], m[string(p)+"b"] = si, si
		m[string(p)+"i"], m[string(p)+"ib"] = iec, iec
	}
	return m
}()

// ParseBytes reads a number of bytes: a number, which may have commas, and a
// unit in any case (B, kB, KiB, ... EiB), which may be shortened to its first
// letters or missing. Error texts are those of the library that Loki uses,
// since answers show them.
func ParseBytes(s string) (uint64, error) {
	n := 0 // characters, as in that library, where others count bytes
	for _, r := range s {
		if !unicode.IsDigit(r) && r != '.' && r != ',' {
			break
		}
		n++
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s[:n], ",", ""), 64)
	if err != nil {
		return 0, err
	}
	unit := strings.ToLower(strings.TrimSpace(s[n:]))
	size, ok := byteUnits[unit]
	if !ok {
		return 0, fmt.Errorf("unhandled size name: %v", unit)
	}
	if f *= size; f >= math.MaxUint64 {
		return 0, fmt.Errorf("too large: %v", s)
	}
	return uint64(f), nil
}

// FormatBytes writes n with the decimal unit that leaves one to three digits
// before the point, and one behind it if there is one before it.
func FormatBytes(n uint64) string {
	if n < 10 {
		return strconv.FormatUint(n, 10) + "B"
	}
	e := int(math.Floor(math.Log(float64(n)) / math.Log(1000)))
	v := math.Floor(float64(n)/math.Pow(1000, float64(e))*10+0.5) / 10
	digits := 0
	if v < 10 {
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64) + [...]string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}[e]
}

// formatBytes is FormatBytes, as Loki prints queries, if nothing is lost by it.
func formatBytes(n uint64) string {
	if n == 0 {
		return "00B" // 0B begins a binary number
	}
	short := FormatBytes(n)
	if back, err := ParseBytes(short); err != nil || back != n || strings.HasSuffix(short, "EB") { // not a unit in queries
		return strconv.FormatUint(n, 10) + "B"
	}
	return short
}
