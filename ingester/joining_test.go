package ingester

import (
	"errors"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

// TestNoAnswerBeforeTheReplay: a query gets an error that says to come again,
// not what happens to be read by then.
func TestNoAnswerBeforeTheReplay(t *testing.T) {
	i := &Ingester{} // which is joining
	_, err := i.Select(t.Context(), "t", nil, 0, 1)
	_, err2 := i.LabelSets(t.Context(), "t", nil, 0, 1)
	for _, err := range []error{err, err2} {
		var pe *push.Error
		if !errors.As(err, &pe) || pe.Reason != push.Replaying || pe.RetryAfter == 0 {
			t.Errorf("got %v", err)
		}
	}
}
