package consul

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/loki-go/loki-go/ring"
)

// view makes members of lists of keys. It does no I/O, and is for one
// goroutine at a time.
type view struct {
	cluster string
	prefix  string        // of keys, with the slash
	grace   time.Duration // how long what vanished while nobody watched is kept

	entries map[string]*seen // by key
	ignored map[string]ignored
	kept    map[string]kept // by key: no more in the list
}

// seen is an entry of the list.
type seen struct {
	*entry
	session string
	index   uint64    // of its last change
	since   time.Time // when this State of this generation was seen first
}

func (s *seen) deadline() time.Time {
	if s.State != ring.Leaving || s.LeaveWithin == 0 {
		return time.Time{}
	}
	return s.since.Add(time.Duration(s.LeaveWithin) * time.Second)
}

type kept struct {
	*seen
	until time.Time
}

type ignored struct {
	index  uint64
	reason string
}

func newView(prefix, cluster string, grace time.Duration) *view {
	return &view{
		cluster: cluster, prefix: prefix + "/", grace: grace,
		entries: map[string]*seen{}, ignored: map[string]ignored{}, kept: map[string]kept{},
	}
}

// apply takes a list. gap says that changes may have been missed since the last
// one: then members that vanished may do so because Consul lost its data, and
// stay for a while. It returns keys that are ignored from now on.
func (v *view) apply(pairs api.KVPairs, gap bool, now time.Time) (strange []ring.Ignored) {
	entries := make(map[string]*seen, len(pairs))
	strangers := map[string]ignored{}
	for _, p := range pairs {
		s, err := v.read(p, now)
		if err == nil {
			entries[p.Key] = s
			delete(v.kept, p.Key)
			continue
		}
		i := ignored{p.ModifyIndex, err.Error()}
		if v.ignored[p.Key] != i {
			strange = append(strange, ring.Ignored{Key: p.Key, Reason: i.reason})
		}
		strangers[p.Key] = i
	}
	if gap {
		for key, s := range v.entries {
			if entries[key] == nil && strangers[key].reason == "" {
				v.kept[key] = kept{s, now.Add(v.grace)}
			}
		}
	}
	v.entries, v.ignored = entries, strangers
	return strange
}

// read returns the entry of a key.
func (v *view) read(p *api.KVPair, now time.Time) (*seen, error) {
	old := v.entries[p.Key]
	if old != nil && old.index == p.ModifyIndex && old.session == p.Session {
		return old, nil
	}
	if strings.Contains(strings.TrimPrefix(p.Key, v.prefix), "/") {
		return nil, fmt.Errorf("it is not right below %s", v.prefix)
	}
	e, err := decode(p.Key, v.cluster, p.Value)
	if err != nil {
		return nil, err
	}
	if p.Session == "" {
		return nil, fmt.Errorf("no session holds it, so it would stay for ever; it can be forgotten")
	}
	s := &seen{entry: e, session: p.Session, index: p.ModifyIndex, since: now}
	if old != nil && old.Generation == e.Generation && old.State == e.State {
		s.since = old.since // such as after it entered again
	}
	return s, nil
}

// members returns who is a member, and when this list has to be made anew
// without a change in Consul; zero: never.
func (v *view) members(now time.Time) (list []ring.Member, next time.Time) {
	add := func(s *seen, deadline time.Time, missing bool) {
		if !deadline.IsZero() {
			if !deadline.After(now) {
				return
			}
			if next.IsZero() || deadline.Before(next) {
				next = deadline
			}
		}
		list = append(list, ring.Member{
			Instance: s.instance(), Started: time.Unix(s.Started, 0), Seen: s.since,
			Deadline: deadline, Missing: missing, Version: s.Version,
		})
	}
	for _, s := range v.entries {
		add(s, s.deadline(), false)
	}
	for key, k := range v.kept {
		if !k.until.After(now) {
			delete(v.kept, key)
			continue
		}
		deadline := k.until
		if d := k.deadline(); !d.IsZero() && d.Before(deadline) {
			deadline = d
		}
		add(k.seen, deadline, true)
	}
	ring.SortMembers(list)
	return list, next
}

// strangers returns all keys that are ignored, by key.
func (v *view) strangers() []ring.Ignored {
	var list []ring.Ignored
	for key, i := range v.ignored {
		list = append(list, ring.Ignored{Key: key, Reason: i.reason})
	}
	slices.SortFunc(list, func(a, b ring.Ignored) int { return strings.Compare(a.Key, b.Key) })
	return list
}
