package objstore

import (
	"context"
	"errors"
	"fmt"
)

// Kind says what an error of a remote store means for the next try.
type Kind uint8

const (
	Permanent Kind = iota // the same request fails again
	NotFound              // there is no such object; errors.Is ErrNotFound
	Denied                // credentials, permissions, or a bucket that is not there
	Transient             // the network or the service failed; worth another try
	Throttled             // the service wants fewer requests
)

func (k Kind) String() string {
	return [...]string{"permanent", "not_found", "denied", "transient", "throttled"}[k]
}

// Error is an error of a remote store.
type Error struct {
	Op   string // get, put, stat, list, delete
	Key  string // or prefix
	Kind Kind
	Hint string // what to mend, if that is known
	Err  error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: %v", e.Op, e.Key, e.Err)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes an Error of kind NotFound an ErrNotFound.
func (e *Error) Is(target error) bool { return target == ErrNotFound && e.Kind == NotFound }

// KindOf returns the kind of err. What no store has classified is Transient
// if a deadline passed, else Permanent.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, ErrNotFound):
		return NotFound
	case errors.Is(err, context.DeadlineExceeded):
		return Transient
	}
	return Permanent
}
