package ring_test

import (
	"testing"

	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/ring/ringtest"
)

func TestMemoryAcceptance(t *testing.T) {
	ringtest.Acceptance(t, func(*testing.T) (ring.Membership, ring.Membership) {
		m := ring.NewMemory()
		return m, m
	})
}
