package ring

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

func TestMemoryGenerations(t *testing.T) {
	ctx := context.Background()
	m := NewMemory()
	old, now := Instance{ID: "a", Generation: 1}, Instance{ID: "a", State: Active, Generation: 2}
	want := func(err, target error) {
		t.Helper()
		if !errors.Is(err, target) {
			t.Fatalf("got %v, want %v", err, target)
		}
	}
	want(m.Update(ctx, old), ErrNotRegistered)
	want(m.Register(ctx, old), nil)
	want(m.Update(ctx, now), ErrNotRegistered)
	want(m.Register(ctx, now), nil)
	want(m.Register(ctx, old), ErrSuperseded)
	want(m.Update(ctx, old), ErrSuperseded)
	want(m.Deregister(ctx, old), nil) // a late farewell of the past
	if got := m.Current().Instances(); len(got) != 1 || got[0] != now {
		t.Fatalf("got %v", got)
	}
	want(m.Deregister(ctx, now), nil)
	want(m.Deregister(ctx, now), nil)
	if got := m.Current().Instances(); len(got) != 0 {
		t.Fatalf("got %v", got)
	}
}

func TestMemoryConcurrent(t *testing.T) {
	ctx := context.Background()
	m := NewMemory()
	const n = 20
	done := make(chan struct{})
	go func() { // a reader that follows until all are there
		defer close(done)
		for {
			r, changed := m.Watch()
			if r.ActiveCount() == n {
				return
			}
			<-changed
		}
	}()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			in := Instance{ID: fmt.Sprint(i)}
			if err := m.Register(ctx, in); err != nil {
				t.Error(err)
			}
			in.State = Active
			if err := m.Update(ctx, in); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	<-done
}
