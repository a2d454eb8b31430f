package tenant

import (
	"errors"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

func TestResolve(t *testing.T) {
	ok := func(auth bool, id, want string) {
		t.Helper()
		got, err := Resolve(auth, id)
		if err != nil || got != want {
			t.Fatalf("%v %q: got %q, %v", auth, id, got, err)
		}
	}
	ok(false, "", "fake")
	ok(false, "team-a", "fake")
	ok(false, "a/b", "fake")
	ok(true, "team-a", "team-a")
	ok(true, "aZ09!-_.*'()", "aZ09!-_.*'()")
	ok(true, "...", "...")
	ok(true, strings.Repeat("x", 150), strings.Repeat("x", 150))

	bad := func(id string, reason push.Reason, status int, text string) {
		t.Helper()
		got, err := Resolve(true, id)
		var e *push.Error
		if !errors.As(err, &e) {
			t.Fatalf("%q: got %q, %v", id, got, err)
		}
		if e.Reason != reason || e.Reason.Status() != status || e.Error() != text || got != "" {
			t.Fatalf("%q: got %q, %v %d %q", id, got, e.Reason, e.Reason.Status(), e)
		}
	}
	bad("", push.NoTenant, 401, "no org id")
	bad("a/b", push.InvalidTenant, 400, "tenant ID 'a/b' contains unsupported character '/'")
	bad("a|b", push.InvalidTenant, 400, "tenant ID 'a|b' contains unsupported character '|'")
	bad("é", push.InvalidTenant, 400, "tenant ID 'é' contains unsupported character 'é'")
	bad(" a", push.InvalidTenant, 400, "tenant ID ' a' contains unsupported character ' '")
	bad(".", push.InvalidTenant, 400, "tenant ID is '.' or '..'")
	bad("..", push.InvalidTenant, 400, "tenant ID is '.' or '..'")
	bad(strings.Repeat("x", 151), push.InvalidTenant, 400, "tenant ID is too long: max 150 characters")
	bad(strings.Repeat("x", 200)+"/", push.InvalidTenant, 400,
		"tenant ID '"+strings.Repeat("x", 150)+"...' contains unsupported character '/'")
}
