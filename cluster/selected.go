package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	stream  grpc.BidiStreamingClient[ingestpb.SelectRequest, ingestpb.SelectResponse]
	timeout time.Duration
	ctx     context.Context         // of the query; the stream's ends with the instance, too
	cancel  context.CancelCauseFunc // of ctx

	mu     sync.Mutex
	blocks uint32
	err    error // why no more can be loaded
}

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
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, nil, s.err
	}
	content, err := s.load(b.number)
	if err != nil {
		if !ended(s.ctx) {
			err = &leftError{err}
		}
		s.err = fmt.Errorf("%w: %w", errSelection, err)
		s.cancel(err)
		return nil, nil, err
	}
	if content.Error != "" {
		return nil, nil, errors.New(content.Error)
	}
	return append(dst, content.Content...), content.Symbols, nil
}

func (s *selected) load(number uint32) (*ingestpb.BlockContent, error) {
	if err := s.stream.Send(&ingestpb.SelectRequest{Load: number}); err != nil && !errors.Is(err, errEnd) {
		return nil, err
	}
	msg, err := s.recv()
	if err != nil {
		return nil, err
	}
	if msg.Block == nil {
		return nil, errors.New("an answer has no block")
	}
	return msg.Block, nil
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
