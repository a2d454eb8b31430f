package query

import (
	"context"
	"errors"
)

// tries is how often a query is run, at most, while instances leave it.
const tries = 3

// leaver is what an error implements that is about an instance that went away
// in the middle of a query. Without it the answer may still be complete, as other
// instances have copies: the source tells that when it is asked anew.
type leaver interface{ InstanceLeft() }

// again runs a query, and once more if an instance has left it meanwhile.
func again[T any](ctx context.Context, run func() (T, error)) (T, error) {
	for n := 1; ; n++ {
		result, err := run()
		var left leaver
		if n == tries || !errors.As(err, &left) || ctx.Err() != nil {
			return result, err
		}
	}
}
