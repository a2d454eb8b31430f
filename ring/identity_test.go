package ring

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/vfs"
)

func TestIdentity(t *testing.T) {
	fsys := vfs.NewMem()
	if err := fsys.MkdirAll("data", 0o755); err != nil {
		t.Fatal(err)
	}
	next := func() Identity {
		t.Helper()
		id, err := NewIdentity(fsys, "data")
		if err != nil {
			t.Fatal(err)
		}
		// What it returned is on disk.
		fsys = fsys.CrashClone(nil, vfs.DropUnsynced)
		return id
	}
	first := next()
	if now := time.Now().UnixMilli(); len(first.Owner) != 32 || first.Generation > now || first.Generation < now-60_000 {
		t.Fatalf("got %+v", first)
	}
	last := first
	for range 5 {
		id := next()
		if id.Owner != first.Owner || id.Generation <= last.Generation {
			t.Fatalf("%+v, then %+v", last, id)
		}
		last = id
	}
	// A clock that was set back changes nothing.
	ahead := Identity{Owner: first.Owner, Generation: time.Now().Add(24 * time.Hour).UnixMilli()}
	if err := writeIdentity(fsys, filepath.Join("data", identityFile), ahead); err != nil {
		t.Fatal(err)
	}
	if id := next(); id.Owner != first.Owner || id.Generation != ahead.Generation+1 {
		t.Fatalf("%+v after %+v", id, ahead)
	}
	for _, broken := range []string{"", "{", `{"owner":"x","generation":5}`, `{"owner":"` + first.Owner + `","generation":-1}`, `{"owner":"` + first.Owner + `","generation":9007199254740993}`} {
		f, err := fsys.OpenFile(filepath.Join("data", identityFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write([]byte(broken))
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if id := next(); len(id.Owner) != 32 || id.Owner == first.Owner || id.Generation < first.Generation {
			t.Fatalf("after %q: %+v", broken, id)
		}
	}
	failing := vfs.Fault(fsys, func(op vfs.Op, _ string) error {
		if op == vfs.OpSync {
			return errors.New("disk full")
		}
		return nil
	})
	if _, err := NewIdentity(failing, "data"); err == nil {
		t.Fatal("an identity that is not on disk")
	}
}
