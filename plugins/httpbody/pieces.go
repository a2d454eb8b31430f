package httpbody

import (
	"errors"
	"io"
	"net/http"
)

// Pieces reads a decompressed body piece by piece, for a receiver that can
// work on the start of a body before it has the end. It is for one goroutine
// and must be closed.
type Pieces struct {
	o     Options
	r     *http.Request
	enc   string
	w     wire
	src   io.Reader
	f     *inflater
	g     grower
	spare [1]byte
	has   bool // spare holds the next byte
	total int64
	err   error // what every further Fill returns
}

// Pieces returns a reader of the body of r, of which MaxDecoded bounds what one
// Fill can hold. The whole body, as sent and decompressed, may have total
// bytes, or with zstd and snappy, which are not read in pieces, MaxWire and
// MaxDecoded. Errors are those of Read.
func (o Options) Pieces(r *http.Request, total int64) (*Pieces, error) {
	enc, err := encoding(r.Header)
	if err != nil {
		return nil, err
	}
	p := &Pieces{o: o, r: r, enc: enc, total: total}
	if enc == "zstd" || enc == "snappy" {
		return p, nil
	}
	if r.ContentLength > total {
		return nil, tooLarge("request body", total)
	}
	p.w = wire{r: r.Body, left: total, max: total}
	p.g = grower{admit: o.Admit, enc: enc, hint: r.ContentLength}
	p.src = &p.w
	return p, nil
}

// Fill appends to dst until it has MaxDecoded bytes. It returns io.EOF if the
// body ends there, nil if there is more. dst should be what the last Fill
// returned, with or without what has been used of it: the memory that Admit has
// granted is that of one buffer.
func (p *Pieces) Fill(dst []byte) ([]byte, error) {
	if p.err != nil {
		return dst, p.err
	}
	if p.src == nil {
		return p.whole(dst)
	}
	if p.enc != "" && p.f == nil {
		if p.err = p.open(); p.err != nil {
			return dst, p.err
		}
	}
	at := len(dst)
	if p.has {
		dst, p.has = append(dst, p.spare[0]), false
	}
	dst, err := p.g.fill(dst, p.src, p.o.MaxDecoded)
	if p.total -= int64(len(dst) - at); err == nil {
		err = p.peek()
	}
	if p.total < 0 {
		err = tooLarge("decompressed body", p.w.max)
	}
	if err != nil && err != io.EOF {
		err = p.w.blame(err)
	}
	p.err = err
	return dst, err
}

// whole is Fill for bodies that are not read in pieces.
func (p *Pieces) whole(dst []byte) ([]byte, error) {
	dst, p.err = p.o.Read(p.r, dst)
	if p.err == nil {
		p.err = io.EOF
	}
	return dst, p.err
}

func (p *Pieces) open() (err error) {
	p.f = inflaters.Get().(*inflater)
	if p.src, err = p.f.open(&p.w, p.enc); err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return p.w.blame(&decodeError{p.enc, err})
}

// peek finds out whether the body ends here.
func (p *Pieces) peek() error {
	for idle := 0; idle < 100; idle++ {
		n, err := p.src.Read(p.spare[:])
		if n > 0 {
			p.has = true
			return nil
		}
		if err != nil {
			return p.g.sourceError(err)
		}
	}
	return io.ErrNoProgress
}

// Close gives decoders back. It does not read what is left of the body.
func (p *Pieces) Close() {
	if p.f != nil {
		p.f.in.Reset(nil)
		inflaters.Put(p.f)
		p.f, p.src = nil, nil
		p.err = io.ErrClosedPipe
	}
}

// fill appends src to dst until there are limit bytes (nil) or src ends
// (io.EOF).
func (g *grower) fill(dst []byte, src io.Reader, limit int64) ([]byte, error) {
	g.held = int64(len(dst))
	for idle := 0; g.held < limit; idle++ {
		if idle > 100 {
			return dst, io.ErrNoProgress
		}
		var err error
		if dst, err = g.room(dst, limit); err != nil {
			return dst, err
		}
		p := dst[len(dst):cap(dst)]
		if most := min(g.admitted, limit) - g.held; int64(len(p)) > most {
			p = p[:most]
		}
		n, err := src.Read(p)
		dst = dst[:len(dst)+n]
		if g.held += int64(n); n > 0 {
			idle = 0
		}
		if err != nil {
			return dst, g.sourceError(err)
		}
	}
	return dst, nil
}

// sourceError names the decoder that failed, if it was one.
func (g *grower) sourceError(err error) error {
	if err != io.EOF && g.enc != "" {
		return &decodeError{g.enc, err}
	}
	return err
}
