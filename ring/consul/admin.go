package consul

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/loki-go/loki-go/ring"
)

// Show reads the members once, as Consul's leader knows them.
func Show(ctx context.Context, cfg Config) (ring.Status, error) {
	cl, err := newClient(cfg)
	if err != nil {
		return ring.Status{}, err
	}
	defer cl.close()
	pairs, _, err := cl.list(ctx, 0, false)
	if err != nil {
		return ring.Status{}, err
	}
	now := time.Now()
	v := newView(cfg.Prefix, cfg.Cluster, 0)
	v.apply(pairs, false, now)
	members, _ := v.members(now)
	list := make([]ring.Instance, len(members))
	for i := range members {
		// This is the first look: since when is not known.
		members[i].Seen, members[i].Deadline = time.Time{}, time.Time{}
		list[i] = members[i].Instance
	}
	return ring.Status{Store: cfg.place(), Ring: ring.New(list), Members: members, Ignored: v.strangers(), Contact: now}, nil
}

// place tells people where the members meet.
func (c Config) place() string { return "consul at " + c.Address + ", " + c.Prefix }

// ErrUnknown says that there is no such instance.
var ErrUnknown = errors.New("ring: no such instance")

// Forgotten is what Forget removes.
type Forgotten struct {
	Key      string
	Instance ring.Instance
	Session  string // empty: nothing held the key
}

// Forget removes an instance from the ring, or says what it would remove. One
// that lives enters again by itself. Keys of other clusters are left alone.
func Forget(ctx context.Context, cfg Config, id string, dryRun bool) (Forgotten, error) {
	cl, err := newClient(cfg)
	if err != nil {
		return Forgotten{}, err
	}
	defer cl.close()
	if err := validID(id); err != nil {
		return Forgotten{}, fmt.Errorf("ring: forget: %w", err)
	}
	key := cfg.Prefix + "/" + id
	p, _, err := cl.get(ctx, key, 0, 0)
	if err != nil {
		return Forgotten{}, err
	}
	if p == nil {
		return Forgotten{}, fmt.Errorf("%w: there is no key %s", ErrUnknown, key)
	}
	e, err := decode(key, cfg.Cluster, p.Value)
	if err != nil {
		return Forgotten{}, fmt.Errorf("ring: the key %s is left alone: %w", key, err)
	}
	f := Forgotten{Key: key, Instance: e.instance(), Session: p.Session}
	if dryRun {
		return f, nil
	}
	if p.Session != "" {
		if err := cl.destroySession(ctx, p.Session); err != nil {
			return f, err
		}
	}
	return f, cl.deleteFree(ctx, key)
}

// deleteFree removes a key that no session holds, if it is there.
func (c *client) deleteFree(ctx context.Context, key string) error {
	p, _, err := c.get(ctx, key, 0, 0)
	if err != nil || p == nil || p.Session != "" {
		return err // somebody has entered meanwhile: fine
	}
	ctx, cancel := c.deadline(ctx)
	defer cancel()
	if _, _, err := c.api.KV().DeleteCAS(&api.KVPair{Key: key, ModifyIndex: p.ModifyIndex}, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("delete key %s: %w", key, err)
	}
	return nil
}
