package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// LoadResult is what the load generator saw.
type LoadResult struct {
	Lines, Requests int
	Bytes           int64 // of lines
	Body            int64 // of requests
	Seconds         float64
	P50, P99        float64 // ms from request to acknowledgement
	Retries         int
}

// Load encodes the batches of spec, calls ready, waits until start is closed,
// and sends them to target (host:port) until all are acknowledged.
func Load(ctx context.Context, spec Spec, target string, ready func(), start <-chan struct{}) (LoadResult, error) {
	batches := make([][]Batch, spec.Conns)
	var wg sync.WaitGroup
	for c := range batches {
		wg.Go(func() { batches[c] = spec.Batches(c) })
	}
	wg.Wait()
	ready()
	select {
	case <-start:
	case <-ctx.Done():
		return LoadResult{}, ctx.Err()
	}
	conns := make([]connResult, spec.Conns)
	begin := time.Now()
	for c := range conns {
		wg.Go(func() { conns[c] = sendAll(ctx, spec.Protocol, target, batches[c]) })
	}
	wg.Wait()
	return summary(conns, batches, time.Since(begin))
}

type connResult struct {
	took    []time.Duration
	retries int
	err     error
}

func summary(conns []connResult, batches [][]Batch, took time.Duration) (LoadResult, error) {
	r := LoadResult{Seconds: took.Seconds()}
	var all []time.Duration
	var errs []error
	for c, res := range conns {
		all = append(all, res.took...)
		r.Retries += res.retries
		errs = append(errs, res.err)
		for _, b := range batches[c] {
			r.Lines += b.Lines
			r.Bytes += b.Bytes
			r.Body += int64(len(b.Body))
		}
	}
	r.Requests = len(all)
	if len(all) > 0 {
		slices.Sort(all)
		r.P50 = ms(all[len(all)/2])
		r.P99 = ms(all[len(all)*99/100])
	}
	return r, errors.Join(errs...)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// errRetry means that the server asked for the same again later.
var errRetry = errors.New("retry")

func sendAll(ctx context.Context, protocol, target string, batches []Batch) (r connResult) {
	send, closeConn, err := dial(protocol, target)
	if err != nil {
		r.err = err
		return r
	}
	defer closeConn()
	for _, b := range batches {
		begin := time.Now()
		for {
			err := send(ctx, b)
			if err == nil {
				break
			}
			if !errors.Is(err, errRetry) || ctx.Err() != nil {
				r.err = err
				return r
			}
			r.retries++
			time.Sleep(50 * time.Millisecond)
		}
		r.took = append(r.took, time.Since(begin))
	}
	return r
}

type sendFunc func(context.Context, Batch) error

func dial(protocol, target string) (sendFunc, func(), error) {
	if protocol == "forward" {
		return dialForward(target)
	}
	path, contentType := "/loki/api/v1/push", "application/x-protobuf"
	if protocol == "json" {
		path, contentType = "/ingest/json", "application/json"
	}
	tr := &http.Transport{MaxIdleConnsPerHost: 1}
	send := func(ctx context.Context, b Batch) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+target+path, bytes.NewReader(b.Body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", contentType)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
		if err != nil {
			return err
		}
		switch {
		case resp.StatusCode/100 == 2:
			return nil
		case resp.StatusCode == 429 || resp.StatusCode == 503:
			return errRetry
		}
		return fmt.Errorf("status %d: %s", resp.StatusCode, text)
	}
	return send, tr.CloseIdleConnections, nil
}

func dialForward(target string) (sendFunc, func(), error) {
	c, err := net.Dial("tcp", target)
	if err != nil {
		return nil, nil, err
	}
	br := bufio.NewReader(c)
	send := func(ctx context.Context, b Batch) error {
		if _, err := c.Write(b.Body); err != nil {
			return err
		}
		// {"ack": chunk}: a map of one, a string of 3, a string of 24.
		ack := make([]byte, 1+4+1+len(b.Chunk))
		if _, err := io.ReadFull(br, ack); err != nil {
			return fmt.Errorf("read ack: %w", err)
		}
		if !bytes.HasSuffix(ack, []byte(b.Chunk)) {
			return fmt.Errorf("ack is %q", ack)
		}
		return nil
	}
	return send, func() { c.Close() }, nil
}
