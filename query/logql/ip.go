package logql

import (
	"fmt"
	"net/netip"
	"strings"
)

// IPMatcher looks for IP addresses in text.
type IPMatcher struct {
	prefix   netip.Prefix
	from, to netip.Addr // if prefix is not valid
}

// NewIPMatcher compiles an address, a range of two addresses with a hyphen
// between them, or a prefix in CIDR notation.
func NewIPMatcher(pattern string) (*IPMatcher, error) {
	if a, err := netip.ParseAddr(pattern); err == nil {
		return &IPMatcher{from: a, to: a}, nil
	}
	if p, err := netip.ParsePrefix(pattern); err == nil {
		return &IPMatcher{prefix: p.Masked()}, nil
	}
	from, to, _ := strings.Cut(pattern, "-")
	a, err1 := netip.ParseAddr(from)
	b, err2 := netip.ParseAddr(to)
	if err1 == nil && err2 == nil && a.Zone() == "" && b.Zone() == "" && a.BitLen() == b.BitLen() && !b.Less(a) {
		return &IPMatcher{from: a, to: b}, nil
	}
	return nil, fmt.Errorf("ip: invalid pattern: %q", pattern)
}

func (m *IPMatcher) contains(a netip.Addr) bool {
	if m.prefix.IsValid() {
		return m.prefix.Contains(a)
	}
	return a.BitLen() == m.from.BitLen() && !a.Less(m.from) && !m.to.Less(a)
}

// Match reports whether there is such an address in text. Addresses are tried
// where the first few characters look like one.
func (m *IPMatcher) Match(text []byte) bool {
	for i := 0; i < len(text); i++ {
		var n int
		switch rest := text[i:]; {
		case len(rest) > 3 && looksLikeIPv4(rest):
			n = span(rest, false)
		case len(rest) > 4 && looksLikeIPv6(rest):
			n = span(rest, true)
		default:
			continue
		}
		if a, err := netip.ParseAddr(string(text[i : i+n])); err == nil && m.contains(a) {
			return true
		}
		i += n
	}
	return false
}

func looksLikeIPv4(s []byte) bool {
	return s[0] >= '0' && s[0] <= '9' && (s[1] == '.' || s[2] == '.' || s[3] == '.')
}

func looksLikeIPv6(s []byte) bool {
	if s[0] == ':' {
		return s[1] == ':' && hexDigit(s[2])
	}
	for i := range 5 {
		if s[i] == ':' {
			return i > 0
		}
		if !hexDigit(s[i]) {
			return false
		}
	}
	return false
}

func hexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// span returns how many bytes of s may be part of an address.
func span(s []byte, v6 bool) int {
	for i, c := range s {
		if c >= '0' && c <= '9' || c == '.' || v6 && (c == ':' || hexDigit(c)) {
			continue
		}
		return i
	}
	return len(s)
}

// ipLine is an IPMatcher as a line filter.
type ipLine struct{ *IPMatcher }

func (m ipLine) match(line []byte) bool { return m.Match(line) }
func (m ipLine) needle() []byte         { return nil }
func (m ipLine) slow() bool             { return true }
