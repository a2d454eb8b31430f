package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

func formatTime(ts int64) string {
	return time.Unix(0, ts).UTC().Format("2006-01-02T15:04:05.000000000Z")
}

// StatusError is an HTTP answer that is not a success.
type StatusError struct {
	Status     int
	Body       string
	RetryAfter string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("status %d: %s", e.Status, strings.TrimSpace(e.Body))
}

// Client speaks HTTP with one server. It is safe for concurrent use.
type Client struct {
	Base   string // http://127.0.0.1:3100
	Tenant string
	HTTP   *http.Client // http.DefaultClient if nil
	Page   int          // limit of one query in QueryAll; 5000, the most that Loki allows, if 0
}

// Do sends a request and returns the body of a 2xx answer.
func (c *Client) Do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.Tenant != "" {
		req.Header.Set("X-Scope-OrgID", c.Tenant)
	}
	req.Header.Set("X-Loki-Response-Encoding-Flags", "categorize-labels")
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, &StatusError{resp.StatusCode, string(out), resp.Header.Get("Retry-After")}
	}
	return out, nil
}

// Get returns the body at path.
func (c *Client) Get(ctx context.Context, path string) (string, error) {
	b, err := c.Do(ctx, http.MethodGet, path, "", nil)
	return string(b), err
}

// Push sends streams over Loki's push API as protobuf.
func (c *Client) Push(ctx context.Context, streams []Stream) error {
	_, err := c.Do(ctx, http.MethodPost, "/loki/api/v1/push", "application/x-protobuf", PushBody(streams))
	return err
}

// PushJSON sends streams over Loki's push API as JSON.
func (c *Client) PushJSON(ctx context.Context, streams []Stream) error {
	_, err := c.Do(ctx, http.MethodPost, "/loki/api/v1/push", "application/json", PushJSON(streams))
	return err
}

// Events sends streams as JSON events.
func (c *Client) Events(ctx context.Context, streams []Stream) error {
	_, err := c.Do(ctx, http.MethodPost, "/ingest/json", "application/json", EventsJSON(streams))
	return err
}

// Flush makes the server store all that it has.
func (c *Client) Flush(ctx context.Context) error {
	_, err := c.Do(ctx, http.MethodPost, "/flush?wait=true", "", nil)
	return err
}

// Ready waits until the server answers that it is ready, or ctx ends.
func (c *Client) Ready(ctx context.Context) error {
	for {
		_, err := c.Get(ctx, "/ready")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("server is not ready: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// QueryAll returns every entry that query selects in [from, to), oldest first
// in each stream, by as many requests as it takes. Entries of one time beyond
// the limit of one request cannot be reached and give an error. Entries have the
// metadata that they were sent with: their levels are left out.
func (c *Client) QueryAll(ctx context.Context, query string, from, to int64) ([]Stream, error) {
	page := c.Page
	if page == 0 {
		page = 5000
	}
	byLabels := map[string]int{}
	var out []Stream
	seen := map[string]bool{} // entries at the time where the last page ended
	for {
		got, err := c.QueryRange(ctx, query, from, to, page)
		if err != nil {
			return nil, err
		}
		count, fresh, last := 0, 0, from
		for _, s := range got {
			for _, e := range s.Entries {
				last = max(last, e.TS)
			}
		}
		next := map[string]bool{}
		for _, s := range got {
			key := LabelText(s.Labels)
			i, ok := byLabels[key]
			if !ok {
				i = len(out)
				byLabels[key] = i
				out = append(out, Stream{Labels: s.Labels})
			}
			for _, e := range s.Entries {
				count++
				id := key + strconv.FormatInt(e.TS, 10) + e.Line
				if e.TS == last {
					next[id] = true
				}
				if e.TS == from && seen[id] {
					continue
				}
				fresh++
				e.Meta = slices.DeleteFunc(e.Meta, func(p Pair) bool { return p.Name == "detected_level" })
				out[i].Entries = append(out[i].Entries, e)
			}
		}
		if count < page {
			return out, nil
		}
		if fresh == 0 {
			return nil, fmt.Errorf("more than %d entries at %d", page, from)
		}
		if last == from {
			for id := range seen {
				next[id] = true
			}
		}
		from, seen = last, next
	}
}

// QueryRange runs one query, oldest entries first.
func (c *Client) QueryRange(ctx context.Context, query string, from, to int64, limit int) ([]Stream, error) {
	v := url.Values{
		"query": {query}, "direction": {"forward"}, "limit": {strconv.Itoa(limit)},
		"start": {strconv.FormatInt(from, 10)}, "end": {strconv.FormatInt(to, 10)},
	}
	body, err := c.Get(ctx, "/loki/api/v1/query_range?"+v.Encode())
	if err != nil {
		return nil, err
	}
	return ParseStreams([]byte(body))
}

// ParseStreams reads the answer to a log query.
func ParseStreams(body []byte) ([]Stream, error) {
	var resp struct {
		Status string
		Data   struct {
			ResultType string
			Result     []struct {
				Stream map[string]string
				Values [][]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(body, &resp); err != nil {
		return nil, fmt.Errorf("parse answer: %w", err)
	}
	if resp.Status != "success" || resp.Data.ResultType != "streams" {
		return nil, fmt.Errorf("answer has status %q and type %q", resp.Status, resp.Data.ResultType)
	}
	var out []Stream
	for _, r := range resp.Data.Result {
		s := Stream{Labels: sortedPairs(r.Stream)}
		for _, v := range r.Values {
			e, err := parseValue(v)
			if err != nil {
				return nil, err
			}
			s.Entries = append(s.Entries, e)
		}
		out = append(out, s)
	}
	return out, nil
}

func parseValue(v []json.RawMessage) (Entry, error) {
	var e Entry
	if len(v) < 2 {
		return e, errors.New("a value without time and line")
	}
	var ts string
	if err := json.Unmarshal(v[0], &ts); err != nil {
		return e, err
	}
	n, err := strconv.ParseInt(ts, 10, 64)
	if err != nil {
		return e, err
	}
	e.TS = n
	if err := json.Unmarshal(v[1], &e.Line); err != nil {
		return e, err
	}
	if len(v) > 2 {
		var extra struct{ StructuredMetadata map[string]string }
		if err := json.Unmarshal(v[2], &extra); err != nil {
			return e, err
		}
		e.Meta = sortedPairs(extra.StructuredMetadata)
	}
	return e, nil
}

// ForwardClient is one connection of Fluentd's forward protocol. It is for one
// goroutine.
type ForwardClient struct {
	Addr string
	Tag  string
	conn net.Conn
}

// ForwardBatch is a batch that keeps its chunk id when it is sent again.
type ForwardBatch struct {
	chunk string
	body  []byte
}

// Batch makes a batch from streams; id must be unique.
func (f *ForwardClient) Batch(id uint64, streams []Stream) ForwardBatch {
	chunk := ChunkID(id)
	return ForwardBatch{chunk, Forward(f.Tag, chunk, streams)}
}

// Send sends b and waits for its ack. After an error the next Send connects
// anew.
func (f *ForwardClient) Send(ctx context.Context, b ForwardBatch) (err error) {
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if f.conn == nil {
		d := net.Dialer{Timeout: time.Second}
		if f.conn, err = d.DialContext(ctx, "tcp", f.Addr); err != nil {
			return err
		}
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Second)
	}
	if err := f.conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := f.conn.Write(b.body); err != nil {
		return err
	}
	want := msgpackString(msgpackString([]byte{0x81}, "ack"), b.chunk)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(f.conn, got); err != nil {
		return fmt.Errorf("read ack: %w", err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("ack is %q, want %q", got, want)
	}
	return nil
}

// Close closes the connection.
func (f *ForwardClient) Close() {
	if f.conn != nil {
		f.conn.Close()
		f.conn = nil
	}
}
