package explain

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
)

// printer writes what records became.
type printer struct {
	out      *bufio.Writer
	enc      *json.Encoder // nil: text
	records  int
	problems int
	err      error // the first of enc
}

func newPrinter(w io.Writer, asJSON bool) *printer {
	p := &printer{out: bufio.NewWriter(w)}
	if asJSON {
		p.enc = json.NewEncoder(p.out)
		p.enc.SetEscapeHTML(false)
	}
	return p
}

func (p *printer) flush() error {
	if err := p.out.Flush(); err != nil {
		return err
	}
	return p.err
}

// explained is one record in JSON.
type explained struct {
	Record   int               `json:"record"`
	Tenant   string            `json:"tenant"`
	Stream   string            `json:"stream"`
	Labels   map[string]string `json:"labels"`
	Time     string            `json:"time"`
	NS       string            `json:"ns"`
	Now      bool              `json:"now"`
	Line     string            `json:"line"`
	Raw      []byte            `json:"line_base64,omitempty"`
	Metadata map[string]string `json:"metadata"`
}

// problem is what stands in the place of a record.
type problem struct {
	Offset int    `json:"offset"`
	Error  string `json:"error"`
}

func (p *printer) problem(offset int, text string) {
	p.problems++
	if p.enc != nil {
		p.encode(problem{offset, text})
		return
	}
	fmt.Fprintf(p.out, "no record at offset %d: %s\n\n", offset, visible(text))
}

func (p *printer) encode(v any) {
	if err := p.enc.Encode(v); err != nil && p.err == nil {
		p.err = err
	}
}

// batch prints the entries of b.
func (p *printer) batch(b *push.Batch, now time.Time) {
	for i := range b.Streams {
		s := &b.Streams[i]
		stream := string(b.Bytes(s.RawLabels))
		entries := b.StreamEntries(s)
		for j := range entries {
			p.records++
			if p.enc != nil {
				p.encode(explain(b, stream, &entries[j], p.records, now))
			} else {
				p.text(b, stream, &entries[j], now)
			}
		}
	}
}

func stamp(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

func explain(b *push.Batch, stream string, e *push.Entry, n int, now time.Time) explained {
	line := b.Bytes(e.Line)
	x := explained{
		Record: n, Tenant: b.Tenant, Stream: stream, Labels: map[string]string{},
		Time: stamp(e.TS), NS: strconv.FormatInt(e.TS, 10), Now: e.TS == now.UnixNano(),
		Line: string(line), Metadata: map[string]string{},
	}
	if !utf8.Valid(line) {
		x.Raw = line
	}
	if ls, err := labels.Parse(stream); err == nil { // mapping makes canonical texts only
		for _, l := range ls {
			x.Labels[l.Name] = l.Value
		}
	}
	for it := b.Pairs(e); it.Next(); {
		x.Metadata[string(it.Name)] = string(it.Value)
	}
	return x
}

func (p *printer) text(b *push.Batch, stream string, e *push.Entry, now time.Time) {
	tenant := visible(b.Tenant)
	if tenant == "" {
		tenant = "(that of the connection)"
	}
	when := ""
	if e.TS == now.UnixNano() {
		when = " (now: the record has none)"
	}
	fmt.Fprintf(p.out, "record %d\n  tenant    %s\n  stream    %s\n  time      %s%s\n  line      %s\n",
		p.records, tenant, stream, stamp(e.TS), when, visible(string(b.Bytes(e.Line))))
	title := "metadata"
	for it := b.Pairs(e); it.Next(); title = "" {
		fmt.Fprintf(p.out, "  %-8s  %s = %s\n", title, it.Name, visible(string(it.Value)))
	}
	fmt.Fprintln(p.out)
}

// visible returns s, or s in quotes if it could not be told from other text.
func visible(s string) string {
	if s == "" {
		return s
	}
	plain := utf8.ValidString(s) && s[0] != '"' && s[0] != ' ' && s[len(s)-1] != ' '
	for _, c := range s {
		plain = plain && unicode.IsPrint(c)
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}
