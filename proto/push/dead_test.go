package push_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

func TestBuryCopies(t *testing.T) {
	b := push.Get()
	defer b.Release()
	raw := []byte(`{"broken`)
	b.Bury(push.Malformed, "unexpected end", raw)
	copy(raw, "XXXXXXXX")
	b.Bury(push.LineTooLong, "too long", bytes.Repeat([]byte("y"), push.MaxDeadRaw+5))
	if len(b.Dead) != 2 || b.DeadLeft != 0 {
		t.Fatalf("%d pieces, %d left", len(b.Dead), b.DeadLeft)
	}
	d := b.Dead[0]
	if d.Reason != push.Malformed || d.Text != "unexpected end" || string(d.Raw) != `{"broken` || d.Size != 8 {
		t.Errorf("first piece: %+v", d)
	}
	d = b.Dead[1]
	if len(d.Raw) != push.MaxDeadRaw || d.Size != push.MaxDeadRaw+5 {
		t.Errorf("second piece: %d bytes of %d", len(d.Raw), d.Size)
	}
}

func TestBuryIsBounded(t *testing.T) {
	b := push.Get()
	defer b.Release()
	for range push.MaxDead + 7 {
		b.Bury(push.Malformed, "x", []byte("y"))
	}
	if len(b.Dead) != push.MaxDead || b.DeadLeft != 7 {
		t.Errorf("%d pieces, %d left, want %d and 7", len(b.Dead), b.DeadLeft, push.MaxDead)
	}

	large := push.Get()
	defer large.Release()
	total := 0
	for i := range 200 {
		large.Bury(push.Malformed, strings.Repeat("ä", push.MaxDeadText), bytes.Repeat([]byte{byte(i)}, 1<<20))
	}
	for i, d := range large.Dead {
		total += len(d.Raw) + len(d.Text)
		if len(d.Text) != push.MaxDeadText || !bytes.Equal(d.Raw, bytes.Repeat([]byte{byte(i)}, push.MaxDeadRaw)) {
			t.Fatalf("piece %d is not what was buried", i)
		}
	}
	if total > push.MaxDeadBytes || total+push.MaxDeadRaw+push.MaxDeadText <= push.MaxDeadBytes {
		t.Errorf("%d bytes kept, the bound is %d", total, push.MaxDeadBytes)
	}
	if len(large.Dead)+large.DeadLeft != 200 {
		t.Errorf("%d kept, %d left, want 200 together", len(large.Dead), large.DeadLeft)
	}
}

func TestBuryTextIsCutAtACharacter(t *testing.T) {
	b := push.Get()
	defer b.Release()
	b.Bury(push.Malformed, "x"+strings.Repeat("ä", push.MaxDeadText), nil)
	if got := b.Dead[0].Text; got != "x"+strings.Repeat("ä", push.MaxDeadText/2-1) {
		t.Errorf("text of %d bytes ends with %q", len(got), got[len(got)-3:])
	}
}

func TestReleaseForgetsTheDead(t *testing.T) {
	// The pool may hand out any batch: look at many.
	for range 100 {
		b := push.Get()
		if b.KeepRefused || len(b.Dead) != 0 || b.DeadLeft != 0 {
			t.Fatalf("a batch from the pool has %d pieces, %d left, keeps: %v", len(b.Dead), b.DeadLeft, b.KeepRefused)
		}
		b.KeepRefused = true
		for range push.MaxDead + 1 {
			b.Bury(push.Malformed, "x", []byte("y"))
		}
		b.Release()
	}
}

func TestRebuildKeepsTheDead(t *testing.T) {
	bl := push.NewBuilder(push.Get())
	s := bl.Stream([]byte(`{a="b"}`))
	bl.EntryExact(s, 1, []byte("one"))
	bl.EntryExact(s, 2, []byte("two"))
	b := bl.Finish()
	defer b.Release()
	b.KeepRefused = true
	b.Bury(push.Malformed, "why", []byte("raw"))
	b.Entries[0].Reject = push.LineTooLong
	b.Rebuild()
	if !b.KeepRefused || len(b.Dead) != 1 || string(b.Dead[0].Raw) != "raw" || len(b.Entries) != 1 {
		t.Errorf("after Rebuild: %d pieces, %d entries, keeps: %v", len(b.Dead), len(b.Entries), b.KeepRefused)
	}
}

func BenchmarkBury(b *testing.B) {
	raw := bytes.Repeat([]byte("z"), 300)
	b.SetBytes(100 * int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		batch := push.Get()
		for range 100 {
			batch.Bury(push.Malformed, "broken", raw)
		}
		batch.Release()
	}
}
