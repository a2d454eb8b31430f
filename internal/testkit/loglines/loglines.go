// Package loglines makes log lines that look like those of a cluster: web
// servers, JSON and logfmt services, Java, system daemons, databases. They
// are as long as real ones, about 190 bytes, and about as repetitive (fields
// vary as they do in life, names come from small skewed sets), which is what
// the speed of an ingester and the size of its chunks depend on.
//
// The same seed gives the same lines. A Generator is for one goroutine.
package loglines

import (
	"math/rand/v2"
	"strconv"
	"time"
)

// Generator makes lines.
type Generator struct {
	rng    *rand.Rand
	seq    uint64
	traces [16][32]byte // of requests under way; each appears in several lines
	uuids  [16][36]byte
}

// New returns a generator for seed.
func New(seed uint64) *Generator {
	g := &Generator{rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))}
	for i := range g.traces {
		g.hex(g.traces[i][:0], 32)
		g.uuid(i)
	}
	return g
}

func (g *Generator) uuid(i int) {
	dst := g.uuids[i][:0]
	for j, n := range []int{8, 4, 4, 4, 12} {
		if j > 0 {
			dst = append(dst, '-')
		}
		dst = g.hex(dst, n)
	}
}

// Apps is the number of different kinds of programs.
func Apps() int { return len(apps) }

// AppName names the program that AppendLine(..., app, ...) imitates.
func AppName(app int) string { return apps[app%len(apps)].name }

// AppendLine appends a line that program app writes at ts (ns since the epoch).
func (g *Generator) AppendLine(dst []byte, app int, ts int64) []byte {
	a := &apps[app%len(apps)]
	g.seq++
	t := time.Unix(0, ts).UTC()
	return g.expand(dst, a.lines[g.skewed(len(a.lines))], t)
}

// skewed picks from n with small numbers far more often than large ones.
func (g *Generator) skewed(n int) int {
	f := g.rng.Float64()
	return int(f * f * float64(n))
}

func (g *Generator) pick(list []string) string { return list[g.skewed(len(list))] }

// expand replaces {x} in a template; each letter is a kind of field.
func (g *Generator) expand(dst []byte, tmpl string, t time.Time) []byte {
	for i := 0; i < len(tmpl); i++ {
		if tmpl[i] != '\x01' {
			dst = append(dst, tmpl[i])
			continue
		}
		i++
		dst = g.field(dst, tmpl[i], t)
	}
	return dst
}

const hexDigits = "0123456789abcdef"

func (g *Generator) hex(dst []byte, n int) []byte {
	var v uint64
	for i := range n {
		if i%16 == 0 {
			v = g.rng.Uint64()
		}
		dst = append(dst, hexDigits[v&15])
		v >>= 4
	}
	return dst
}

func (g *Generator) num(dst []byte, n int) []byte {
	return strconv.AppendInt(dst, int64(g.rng.IntN(n)), 10)
}

func (g *Generator) field(dst []byte, kind byte, t time.Time) []byte {
	switch kind {
	case 'T': // RFC 3339 with ms
		return t.AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	case 'N': // with ns
		return t.AppendFormat(dst, "2006-01-02T15:04:05.000000000Z")
	case 'C': // common log format
		return t.AppendFormat(dst, "02/Jan/2006:15:04:05 +0000")
	case 'J': // log4j
		return t.AppendFormat(dst, "2006-01-02 15:04:05,000")
	case 'S': // syslog
		return t.AppendFormat(dst, "Jan _2 15:04:05")
	case 'K': // klog
		return t.AppendFormat(dst, "0102 15:04:05.000000")
	case 'E': // epoch
		return strconv.AppendInt(dst, t.Unix(), 10)
	case 'I': // IPv4 of a client
		dst = append(dst, "10."...)
		dst = g.num(dst, 4)
		dst = append(dst, '.')
		dst = g.num(dst, 256)
		dst = append(dst, '.')
		return g.num(dst, 256)
	case 'P': // port
		return strconv.AppendInt(dst, int64(32768+g.rng.IntN(28000)), 10)
	case 't': // trace id
		i := g.rng.IntN(len(g.traces))
		dst = append(dst, g.traces[i][:]...)
		if g.rng.IntN(6) == 0 {
			g.hex(g.traces[i][:0], 32)
		}
		return dst
	case 'x': // short hash
		return g.hex(dst, 8)
	case 'u': // uuid
		i := g.rng.IntN(len(g.uuids))
		dst = append(dst, g.uuids[i][:]...)
		if g.rng.IntN(6) == 0 {
			g.uuid(i)
		}
		return dst
	case 'q': // counter
		return strconv.AppendUint(dst, 1_000_000+g.seq, 10)
	case 'd': // small number
		return g.num(dst, 1<<g.rng.IntN(8))
	case 'n': // bytes
		return g.num(dst, 1<<(4+g.rng.IntN(14)))
	case 'f': // duration in ms
		return strconv.AppendFloat(dst, float64(g.rng.IntN(1<<(4+g.rng.IntN(14))))/100, 'f', 2, 64)
	case 'm': // HTTP method
		return append(dst, g.pick(methods)...)
	case 'p': // HTTP path
		return g.path(dst)
	case 'c': // HTTP status
		return append(dst, g.pick(statuses)...)
	case 'a': // user agent
		return append(dst, g.pick(agents)...)
	case 'h': // host or pod
		dst = append(dst, g.pick(services)...)
		dst = append(dst, '-')
		return append(dst, g.pick(podSuffixes)...)
	case 'v': // service
		return append(dst, g.pick(services)...)
	case 'w': // user
		return append(dst, g.pick(users)...)
	case 'L': // level
		return append(dst, g.pick(levels)...)
	case 'l':
		return append(dst, g.pick(lowLevels)...)
	case 'e': // error text
		return append(dst, g.pick(errorTexts)...)
	case 'o': // SQL table
		return append(dst, g.pick(tables)...)
	}
	panic("loglines: unknown field " + string(kind))
}

func (g *Generator) path(dst []byte) []byte {
	dst = append(dst, g.pick(paths)...)
	switch g.rng.IntN(3) {
	case 0:
		dst = append(dst, '/')
		dst = g.num(dst, 100000)
	case 1:
		dst = append(dst, "?page="...)
		dst = g.num(dst, 40)
		dst = append(dst, "&q="...)
		dst = append(dst, g.pick(users)...)
	}
	return dst
}
