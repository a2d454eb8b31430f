package syslog

import "bytes"

// maxParams is how many parameters of structured data are read. A message with
// more keeps them in its text.
const maxParams = 4096

var bom = []byte("\xEF\xBB\xBF")

// rfc5424 reads b as RFC 5424 has it, from behind the priority on:
//
//	VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA [MSG]
//
// It reports false, with m as it was, if it is no such message. Lengths are not
// checked; structured data may be missing (Heroku) and is part of the text if
// it is not sound. The byte order mark, which says that the text is UTF-8, is
// left out.
func (p *parser) rfc5424(m *message, b []byte, at int) bool {
	i := at
	for i < len(b) && i < at+3 && isDigit(b[i]) {
		i++
	}
	if i == at || b[at] == '0' || i >= len(b) || b[i] != ' ' {
		return false
	}
	stamp, i := token(b, i+1)
	ts, ok := m.ts, true
	if len(stamp) != 1 || stamp[0] != '-' {
		ts, ok = p.dateTime(stamp)
	}
	if !ok {
		return false
	}
	var fields [4][]byte
	for k := range fields {
		if i >= len(b) {
			return false
		}
		fields[k], i = token(b, i)
		if len(fields[k]) == 0 {
			return false
		}
		if len(fields[k]) == 1 && fields[k][0] == '-' {
			fields[k] = nil
		}
	}
	m.format, m.ts = formatRFC5424, ts
	m.hostname, m.appName, m.procID, m.msgID = fields[0], fields[1], fields[2], fields[3]
	m.text = bytes.TrimPrefix(b[m.structuredData(b, i):], bom)
	return true
}

// structuredData returns the index at which the text starts.
func (m *message) structuredData(b []byte, at int) int {
	if at >= len(b) {
		return len(b)
	}
	end := at
	switch b[at] {
	case '-':
		end = at + 1
		if end < len(b) && b[end] != ' ' {
			return at
		}
	case '[':
		if end = m.elements(b, at); end < 0 {
			m.params = m.params[:0]
			return at
		}
	}
	if end > at && end < len(b) && b[end] == ' ' {
		end++
	}
	return end
}

// elements reads [id name="value" ...]... and returns the index behind it, or
// -1.
func (m *message) elements(b []byte, i int) int {
	for i < len(b) && b[i] == '[' {
		id, j := name(b, i+1)
		if j < 0 {
			return -1
		}
		if j < len(b) && b[j] == ']' {
			m.params = append(m.params, param{id: id})
		}
		for j < len(b) && b[j] != ']' {
			if j = m.parameter(b, j, id); j < 0 {
				return -1
			}
		}
		if j >= len(b) || len(m.params) > maxParams {
			return -1
		}
		i = j + 1
	}
	return i
}

// parameter reads spaces and name="value" at b[i:].
func (m *message) parameter(b []byte, i int, id []byte) int {
	for i < len(b) && b[i] == ' ' {
		i++
	}
	if i < len(b) && b[i] == ']' {
		return i
	}
	n, i := name(b, i)
	if i < 0 || i+1 >= len(b) || b[i] != '=' || b[i+1] != '"' || len(m.params) > maxParams {
		return -1
	}
	from, escaped := i+2, false
	for i = from; i < len(b) && b[i] != '"'; i++ {
		if b[i] == '\\' {
			escaped = true
			i++
		}
	}
	if i >= len(b) || i+1 >= len(b) || b[i+1] != ' ' && b[i+1] != ']' {
		return -1
	}
	m.params = append(m.params, param{id, n, b[from:i:i], escaped})
	return i + 1
}

// name reads an SD-NAME, which must not be empty.
func name(b []byte, from int) ([]byte, int) {
	i := from
	for i < len(b) && b[i] > ' ' && b[i] != '=' && b[i] != ']' && b[i] != '"' && b[i] != 0x7f {
		i++
	}
	if i == from {
		return nil, -1
	}
	return b[from:i:i], i
}

// unescape appends the value that p stands for. Only a quote, a backslash and a
// closing bracket are escaped; other backslashes mean themselves.
func unescape(dst, p []byte) []byte {
	for i := 0; i < len(p); i++ {
		if p[i] == '\\' && i+1 < len(p) && (p[i+1] == '"' || p[i+1] == '\\' || p[i+1] == ']') {
			i++
		}
		dst = append(dst, p[i])
	}
	return dst
}
