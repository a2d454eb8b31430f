package ring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Errors of a Membership.
var (
	ErrNotRegistered = errors.New("ring: instance is not registered")
	ErrSuperseded    = errors.New("ring: instance is registered with a newer generation")
	// ErrInUse: another living process has the instance's id.
	ErrInUse = errors.New("ring: instance id is in use")
)

// Membership is a member list that instances enter and readers follow. All
// methods may be called concurrently.
type Membership interface {
	// Register enters an instance, replacing an entry of the same ID that this
	// process, or an earlier one of the same instance, has made, unless that has
	// a newer generation. It may wait until it is known whether another process
	// with that ID lives, at most until ctx ends.
	Register(ctx context.Context, in Instance) error
	// Update replaces the entry of an instance that is registered with the same
	// generation, usually to change its state. If ctx ends while the members'
	// store cannot be reached, the change is made as soon as it can.
	Update(ctx context.Context, in Instance) error
	// Deregister removes the entry of that ID and generation. It is not an error
	// if there is none.
	Deregister(ctx context.Context, in Instance) error
	// Current returns the latest known ring. It never blocks.
	Current() *Ring
	// Watch returns the latest known ring and a channel that is closed as soon
	// as there is a later one.
	Watch() (*Ring, <-chan struct{})
	// Status tells people what is known of the members.
	Status() Status
}

// Status is what a Membership knows, for people.
type Status struct {
	Store   string // where the members meet
	Ring    *Ring
	Members []Member // by ID
	Ignored []Ignored
	// Contact is when the store answered last; zero: it never did.
	Contact time.Time
	// Stale says that the store cannot be reached: the ring is the last one
	// known. Problem says why.
	Stale   bool
	Problem string
}

// Member is an instance and when it changed. Times that are not known are zero.
type Member struct {
	Instance
	Started  time.Time // of the process, by its own clock
	Seen     time.Time // since when it is known here in its state
	Deadline time.Time // LEAVING: when it counts no more
	// Missing says that the store lost the entry, and that it stays until
	// Deadline because the instance may be about to enter again.
	Missing bool
	Version string // of its program
}

// Ignored is an entry of the store that is no member.
type Ignored struct{ Key, Reason string }

// Memory is a Membership within one process.
type Memory struct {
	mu      sync.Mutex
	members map[string]Member
	ring    *Ring
	changed chan struct{}
}

// NewMemory returns a membership without members.
func NewMemory() *Memory {
	return &Memory{members: make(map[string]Member), ring: New(nil), changed: make(chan struct{})}
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
	old, ok := m.members[in.ID]
	if ok && old.Instance == in {
		return
	}
	now := time.Now()
	if !ok || old.Generation != in.Generation {
		old.Started = now
	}
	m.members[in.ID] = Member{Instance: in, Started: old.Started, Seen: now}
	m.publish()
}

// publish must be called under mu.
func (m *Memory) publish() {
	list := make([]Instance, 0, len(m.members))
	for _, e := range m.members {
		list = append(list, e.Instance)
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

// Status implements Membership.
func (m *Memory) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{Store: "memory", Ring: m.ring, Contact: time.Now()}
	for _, e := range m.members {
		s.Members = append(s.Members, e)
	}
	SortMembers(s.Members)
	return s
}

// SortMembers sorts by ID.
func SortMembers(list []Member) {
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
}
