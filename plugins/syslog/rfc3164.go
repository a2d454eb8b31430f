package syslog

import (
	"bytes"
	"strings"
)

// bsd reads b in the manner of RFC 3164, from behind the priority on:
//
//	TIMESTAMP HOSTNAME TAG[PID]: text
//
// The RFC describes what was seen in the wild, and devices differ in all of it.
// Without a time that stamp knows, everything is text. The host may be missing,
// as from the C library's syslog(3), and so may the tag, which has to look like
// one: it becomes a label, and words of a text must not. One space between tag
// and text is not part of the text.
//
// Cisco puts a number, and the host, before the time, and its kind of tag,
// %FACILITY-SEVERITY-MNEMONIC:, is part of the text.
func (p *parser) bsd(m *message, b []byte, at int) {
	m.text = b[at:]
	i, colon, ok := p.bsdTime(m, b, at)
	if !ok {
		if m.cisco(); m.msgID == nil {
			// A tag without a time is one only in its full form.
			if tok, next := token(b, at); bytes.IndexByte(tok, '[') > 0 {
				m.tag(b, tok, at, next)
			}
		}
		return
	}
	m.format = formatBSD
	m.text = b[i:]
	if !colon {
		m.host(b, i)
	}
	m.cisco()
}

// bsdTime reads the time and what Cisco has before it. It returns the index of
// what follows.
func (p *parser) bsdTime(m *message, b []byte, at int) (end int, colon, ok bool) {
	ts, end, colon, ok := p.stamp(b, at, m.ts)
	if ok {
		m.ts = ts
		return end, colon, true
	}
	i := at
	for i < len(b) && i < at+10 && isDigit(b[i]) {
		i++
	}
	if i+1 >= len(b) || b[i] != ':' || b[i+1] != ' ' {
		return 0, false, false
	}
	sequence := b[at:i:i]
	i = skipSpaces(b, i+1)
	ts, end, colon, ok = p.stamp(b, i, m.ts)
	if !ok {
		host, next := token(b, i)
		if len(host) < 2 || host[len(host)-1] != ':' {
			return 0, false, false
		}
		host = host[:len(host)-1]
		if ts, end, _, ok = p.stamp(b, skipSpaces(b, next), m.ts); !ok || !isHost(host) {
			return 0, false, false
		}
		m.hostname, colon = host, true
	}
	m.ts = ts
	if len(sequence) > 0 {
		m.sequence = sequence
	}
	return end, colon, true
}

// host reads the host at b[i:], and the tag behind it.
func (m *message) host(b []byte, i int) {
	tok, next := token(b, i)
	if m.tag(b, tok, i, next) || next >= len(b) || !isHost(tok) {
		return
	}
	m.hostname = tok
	if bytes.HasPrefix(b[next:], []byte(": ")) { // Cisco ASA
		next += 2
	}
	m.text = b[next:]
	tok, after := token(b, next)
	m.tag(b, tok, next, after)
}

// tag reads tok, which is at b[at:], as a tag. If it is one the text starts
// behind it; next is where that is if the tag is all of tok.
func (m *message) tag(b, tok []byte, at, next int) bool {
	name, n := tok, len(tok)
	var pid []byte
	if open := bytes.IndexByte(tok, '['); open > 0 {
		end := bytes.IndexByte(tok[open:], ']') + open
		if end <= open {
			return false
		}
		name, pid = tok[:open:open], tok[open+1:end:end]
		if n = end + 1; n < len(tok) && tok[n] != ':' {
			return false
		}
	} else {
		if n == 0 || tok[n-1] != ':' {
			return false
		}
		name = tok[: n-1 : n-1]
	}
	if !isTag(name) {
		return false
	}
	if n+1 < len(tok) { // text that follows without a space
		next = at + n + 1
	}
	m.appName, m.text = name, b[next:]
	if len(pid) > 0 {
		m.procID = pid
	}
	return true
}

// cisco finds %FACILITY-SEVERITY-MNEMONIC: at the start of the text.
func (m *message) cisco() {
	t := m.text
	if len(t) == 0 || t[0] != '%' {
		return
	}
	end := bytes.IndexByte(t[:min(len(t), 128)], ':')
	if end < 0 {
		return
	}
	for _, c := range t[1:end] {
		if !isDigit(c) && !isLetter(c) && c != '-' && c != '_' {
			return
		}
	}
	parts := bytes.IndexByte(t[:end], '-')
	if parts < 2 || bytes.IndexByte(t[parts+1:end], '-') < 1 {
		return
	}
	m.appName, m.msgID = t[1:parts:parts], t[1:end:end]
}

// isHost reports whether s could be a host: a name, an address, or how
// syslog-ng writes a path of them.
func isHost(s []byte) bool {
	if len(s) == 0 || len(s) > 255 {
		return false
	}
	for _, c := range s {
		if !isDigit(c) && !isLetter(c) && c < 0x80 && strings.IndexByte(".-_:/@%[]", c) < 0 {
			return false
		}
	}
	return s[len(s)-1] != ':' || bytes.HasSuffix(s, []byte("::"))
}

// isTag reports whether s could be the name of a program.
func isTag(s []byte) bool {
	if len(s) == 0 || len(s) > 64 || s[0] == '%' {
		return false
	}
	letter := false
	for _, c := range s {
		switch {
		case isLetter(c):
			letter = true
		case isDigit(c):
		case strings.IndexByte("-_./@()+#~", c) < 0:
			return false
		}
	}
	return letter
}
