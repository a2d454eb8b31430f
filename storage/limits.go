package storage

import (
	"fmt"

	"github.com/loki-go/loki-go/internal/units"
)

// QueryLimits bound what one Select may lead to. 0 is no limit.
type QueryLimits struct {
	MaxChunks int         // that match, whether they are loaded or not; max_chunks_per_query
	MaxBytes  units.Bytes // of uncompressed content that is loaded; max_query_bytes_read
}

// LimitError says that a query asks for more than its tenant may.
type LimitError struct{ Msg string }

func (e *LimitError) Error() string { return e.Msg }

// QueryLimit marks e as the fault of the query.
func (e *LimitError) QueryLimit() {}

func (l QueryLimits) checkChunks(n int) error {
	if l.MaxChunks <= 0 || n <= l.MaxChunks {
		return nil
	}
	return &LimitError{fmt.Sprintf("the query matches %d chunks, the limit max-chunks-per-query is %d; select fewer streams or a shorter range", n, l.MaxChunks)}
}

// checkBytes is asked before each load: the limit may be passed by one chunk.
func (l QueryLimits) checkBytes(n int64) error {
	if l.MaxBytes <= 0 || n < int64(l.MaxBytes) {
		return nil
	}
	return &LimitError{fmt.Sprintf("the query has read %d bytes, the limit max-query-bytes-read is %d; select fewer streams or a shorter range", n, int64(l.MaxBytes))}
}
