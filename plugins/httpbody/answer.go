package httpbody

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/loki-go/loki-go/proto/push"
)

// Status returns the HTTP status and the wait (0: none) that tell a client
// what err means for it. A client that broke off gets a code that lets it try
// again, in case that anybody reads it: nothing was stored.
func Status(err error) (code int, wait time.Duration) {
	var e *push.Error
	var r *push.Rejected
	switch {
	case err == nil:
		return http.StatusNoContent, 0
	case errors.As(err, &e):
		code, wait = e.Reason.Status(), e.RetryAfter
	case errors.As(err, &r):
		code = r.Status()
	case errors.Is(err, ErrDisconnected):
		code = http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError, 0
	}
	if wait <= 0 && (code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable) {
		wait = time.Second
	}
	return code, wait
}

// WriteError answers a request with what err says: its status, Retry-After
// where waiting helps, and its text as one line. It returns the status.
func WriteError(w http.ResponseWriter, err error) int {
	code, wait := Status(err)
	h := w.Header()
	if wait > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	if err == nil {
		w.WriteHeader(code)
		return code
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(append(oneLine(err.Error()), '\n')) // a client that is gone does not matter here
	return code
}

// maxText bounds an answer's text.
const maxText = 8 << 10

// oneLine returns s without line breaks and other control characters, cut at
// the end of a character if it is very long.
func oneLine(s string) []byte {
	if len(s) > maxText {
		n := maxText
		for n > maxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + "..."
	}
	return []byte(strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimSpace(s)))
}
