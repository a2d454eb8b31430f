package push_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

func TestTenantNames(t *testing.T) {
	for _, id := range []string{"a", "aZ09!-_.*'()", "...", strings.Repeat("x", push.MaxTenant)} {
		if err := push.CheckTenant(id); err != nil || !push.ValidTenant(id) {
			t.Errorf("%q: %v", id, err)
		}
	}
	for id, reason := range map[string]push.Reason{
		"": push.NoTenant, ".": push.InvalidTenant, "..": push.InvalidTenant, "a/b": push.InvalidTenant,
		"é": push.InvalidTenant, "\xff": push.InvalidTenant, strings.Repeat("x", push.MaxTenant+1): push.InvalidTenant,
	} {
		var e *push.Error
		if err := push.CheckTenant(id); push.ValidTenant(id) || !errors.As(err, &e) || e.Reason != reason {
			t.Errorf("%q: %v", id, err)
		}
	}
	if n := testing.AllocsPerRun(10, func() { _ = push.ValidTenant("a/b") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
