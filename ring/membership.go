package ring

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Errors of a Membership.
var (
	ErrNotRegistered = errors.New("ring: instance is not registered")
	ErrSuperseded    = errors.New("ring: instance is registered with a newer generation")
)

// Membership is a member list that instances enter and readers follow. All
// methods may be called concurrently.
type Membership interface {
	// Register enters an instance, replacing an entry of the same ID unless
	// that has a newer generation.
	Register(ctx context.Context, in Instance) error
	// Update replaces the entry of an instance that is registered with the same
	// generation, usually to change its state.
	Update(ctx context.Context, in Instance) error
	// Deregister removes the entry of that ID and generation. It is not an error
	// if there is none.
	Deregister(ctx context.Context, in Instance) error
	// Current returns the latest known ring. It never blocks.
	Current() *Ring
	// Watch returns the latest known ring and a channel that is closed as soon
	// as there is a later one.
	Watch() (*Ring, <-chan struct{})
}

// Memory is a Membership within one process.
type Memory struct {
	mu      sync.Mutex
	members map[string]Instance
	ring    *Ring
	changed chan struct{}
}

// NewMemory returns a membership without members.
func NewMemory() *Memory {
	return &Memory{members: make(map[string]Instance), ring: New(nil), changed: make(chan struct{})}
}

// Register implements Membership.
func (m *Memory) Register(_ context.Context, in Instance) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.members[in.ID]; ok && old.Generation > in.Generation {
		return fmt.Errorf("register %s: %w", in.ID, ErrSuperseded)
	}
	m.set(in)
	return nil
}

// Update implements Membership.
func (m *Memory) Update(_ context.Context, in Instance) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.members[in.ID]
	switch {
	case !ok || old.Generation < in.Generation:
		return fmt.Errorf("update %s: %w", in.ID, ErrNotRegistered)
	case old.Generation > in.Generation:
		return fmt.Errorf("update %s: %w", in.ID, ErrSuperseded)
	}
	m.set(in)
	return nil
}

// Deregister implements Membership.
func (m *Memory) Deregister(_ context.Context, in Instance) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.members[in.ID]; ok && old.Generation == in.Generation {
		delete(m.members, in.ID)
		m.publish()
	}
	return nil
}

// set must be called under mu.
func (m *Memory) set(in Instance) {
	if old, ok := m.members[in.ID]; ok && old == in {
		return
	}
	m.members[in.ID] = in
	m.publish()
}

// publish must be called under mu.
func (m *Memory) publish() {
	list := make([]Instance, 0, len(m.members))
	for _, in := range m.members {
		list = append(list, in)
	}
	m.ring = New(list)
	close(m.changed)
	m.changed = make(chan struct{})
}

// Current implements Membership.
func (m *Memory) Current() *Ring {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ring
}

// Watch implements Membership.
func (m *Memory) Watch() (*Ring, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ring, m.changed
}
