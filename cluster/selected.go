package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/storage/chunk"
)

var errEnd = io.EOF

// selected is a selection of a query in another instance. Its blocks are loaded
// one after the other.
type selected struct {
	stream   grpc.BidiStreamingClient[ingestpb.SelectRequest, ingestpb.SelectResponse]
	timeout  time.Duration
	filtered bool                    // there is a filter
	ctx      context.Context         // of the query; the stream's ends with the instance, too
	cancel   context.CancelCauseFunc // of ctx

	mu     sync.Mutex
	blocks uint32
	err    error                             // why no more can be loaded
	came   map[uint32]*ingestpb.BlockContent // blocks that came with others
	held   int                               // bytes of them
}

// maxHeld is how much of blocks that came with others is kept, in bytes. It is
// more than one answer can have unless blocks are huge; what does not fit is asked
// for when its turn is.
const maxHeld = 4 << 20

// recv receives one answer, within the time that it may take.
func (s *selected) recv() (*ingestpb.SelectResponse, error) {
	t := time.AfterFunc(s.timeout, func() { s.cancel(fmt.Errorf("no answer within %v", s.timeout)) })
	defer t.Stop()
	return s.stream.Recv()
}

// series reads the answer to the selection.
func (s *selected) series() ([]chunk.Series, error) {
	var out []chunk.Series
	for {
		msg, err := s.recv()
		if err != nil {
			return nil, err
		}
		for _, st := range msg.Streams {
			ls, err := labels.Parse(st.Labels)
			if err != nil {
				return nil, err
			}
			series := chunk.Series{Labels: ls}
			for _, b := range st.Blocks {
				block := remoteBlock{s: s, number: s.blocks, mint: b.MinTime, maxt: b.MaxTime, entries: int(b.Entries)}
				s.blocks++
				if b.Size > 0 {
					series.Blocks = append(series.Blocks, &sizedBlock{block, b.Size})
				} else {
					series.Blocks = append(series.Blocks, &block)
				}
			}
			out = append(out, series)
		}
		if msg.Done {
			return out, nil
		}
	}
}

// remoteBlock is a block in another instance.
type remoteBlock struct {
	s          *selected
	number     uint32
	mint, maxt int64
	entries    int
}

func (b *remoteBlock) Bounds() (int64, int64) { return b.mint, b.maxt }
func (b *remoteBlock) NumEntries() int        { return b.entries }

// sizedBlock is one of known size.
type sizedBlock struct {
	remoteBlock
	size int64
}

// Size returns about the bytes of lines and metadata.
func (b *sizedBlock) Size() int64 { return b.size }

// Load implements chunk.BlockRef.
func (b *remoteBlock) Load(dst []byte) ([]byte, []string, error) {
	f, err := b.LoadFiltered(dst, func(func(chunk.BlockRef) bool) {})
	return f.Content, f.Symbols, err
}

// LoadFiltered implements chunk.FilteredRef.
func (b *remoteBlock) LoadFiltered(dst []byte, next iter.Seq[chunk.BlockRef]) (chunk.Filtered, error) {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return chunk.Filtered{}, s.err
	}
	content, err := s.load(b.number, next)
	if err != nil {
		if ended(s.ctx) {
			err = context.Cause(s.ctx)
		} else {
			err = &leftError{err}
		}
		s.err = fmt.Errorf("%w: %w", errSelection, err)
		s.cancel(err)
		return chunk.Filtered{}, err
	}
	if content.Error != "" {
		return chunk.Filtered{}, errors.New(content.Error)
	}
	return chunk.Filtered{
		Content: append(dst, content.Content...), Symbols: content.Symbols,
		Whole: content.Scanned == nil, Bytes: content.Scanned.GetBytes(), Entries: content.Scanned.GetEntries(),
	}, nil
}

// in returns the number of the block if it is one of s.
func (b *remoteBlock) in(s *selected) (uint32, bool) { return b.number, b.s == s }

func (s *selected) load(number uint32, next iter.Seq[chunk.BlockRef]) (*ingestpb.BlockContent, error) {
	if c := s.came[number]; c != nil {
		s.forget(number, c)
		return c, nil
	}
	req := &ingestpb.SelectRequest{Load: number, Next: s.others(next)}
	if err := s.stream.Send(req); err != nil && !errors.Is(err, errEnd) {
		return nil, err
	}
	msg, err := s.recv()
	if err != nil {
		return nil, err
	}
	if msg.Block == nil {
		return nil, errors.New("an answer has no block")
	}
	if len(msg.More) > len(req.Next) {
		return nil, fmt.Errorf("an answer has %d blocks more, of %d", len(msg.More), len(req.Next))
	}
	for i, c := range msg.More {
		s.keep(req.Next[i], c)
	}
	return msg.Block, nil
}

// others returns which blocks of the selection are next and not here.
func (s *selected) others(next iter.Seq[chunk.BlockRef]) (numbers []uint32) {
	if !s.filtered {
		return nil
	}
	seen := 0
	for ref := range next {
		if seen++; len(numbers) == maxNext || seen > 8*maxNext {
			break // the others are too far away, or of other instances
		}
		b, ok := ref.(interface {
			in(*selected) (uint32, bool)
		})
		if !ok {
			continue
		}
		if n, ok := b.in(s); ok && s.came[n] == nil {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// keep holds a block that came with another.
func (s *selected) keep(number uint32, c *ingestpb.BlockContent) {
	if s.came == nil {
		s.came = map[uint32]*ingestpb.BlockContent{}
	}
	if s.held += size(c); s.held > maxHeld {
		clear(s.came)
		s.held = size(c)
	}
	s.came[number] = c
}

func (s *selected) forget(number uint32, c *ingestpb.BlockContent) {
	delete(s.came, number)
	s.held -= size(c)
}

// size is about what a block takes in memory.
func size(c *ingestpb.BlockContent) int {
	n := 256 + len(c.Content)
	for _, sym := range c.Symbols {
		n += 16 + len(sym)
	}
	return n
}

// ended reports whether the query has come to its end, by its own time or its
// client's wish.
func ended(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded)
}

// leftError is the error of a block whose instance does not answer any more.
// Package query runs a query again that meets one.
type leftError struct{ err error }

func (e *leftError) Error() string { return e.err.Error() }
func (e *leftError) Unwrap() error { return e.err }

// InstanceLeft tells package query what kind of error it is.
func (e *leftError) InstanceLeft() {}
