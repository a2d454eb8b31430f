package ring

import (
	"context"
	"testing"
)

var _ Membership = (*Memory)(nil)

func TestMemory(t *testing.T) {
	ctx := context.Background()
	m := NewMemory()
	if n := len(m.Current().Instances()); n != 0 {
		t.Fatalf("a new membership has %d members", n)
	}
	first, changed := m.Watch()
	a := Instance{ID: "a", State: Joining, Generation: 5}
	if err := m.Register(ctx, a); err != nil {
		t.Fatal(err)
	}
	<-changed
	if len(first.Instances()) != 0 {
		t.Fatal("a ring that was handed out changed")
	}
	r, changed := m.Watch()
	if r.Find("a") != 0 || r.ActiveCount() != 0 {
		t.Fatalf("got %v", r.Instances())
	}
	if err := m.Register(ctx, a); err != nil { // no change, no notice
		t.Fatal(err)
	}
	select {
	case <-changed:
		t.Fatal("a notice without a change")
	default:
	}
	a.State = Active
	if err := m.Update(ctx, a); err != nil {
		t.Fatal(err)
	}
	<-changed
	if m.Current().ActiveCount() != 1 {
		t.Fatalf("got %v", m.Current().Instances())
	}
}
