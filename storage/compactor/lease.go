package compactor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/loki-go/loki-go/storage/objstore"
)

const (
	leaseKey     = root + "compactor/lease.json"
	maxLeaseSize = 4 << 10
	maxOwner     = 256
	// settle is how long a new owner waits for others that took the lease in
	// the same moment: the last one to write has it.
	settle = 2 * time.Second
)

// ErrLeased says that another compactor has the lease.
var ErrLeased = errors.New("compactor: another process has the lease")

// leaseRecord is the content of the lease. Times are ms.
type leaseRecord struct {
	Version int    `json:"version"`
	Owner   string `json:"owner"`
	Renewed int64  `json:"renewed"`
	TTL     int64  `json:"ttl"`
}

func decodeLease(b []byte) (leaseRecord, error) {
	var r leaseRecord
	if len(b) > maxLeaseSize {
		return r, fmt.Errorf("lease of %d bytes", len(b))
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("decode lease: %w", err)
	}
	switch {
	case r.Version != 1:
		return r, fmt.Errorf("lease of version %d", r.Version)
	case r.Owner == "" || len(r.Owner) > maxOwner || r.TTL <= 0 || r.TTL > maxTTL.Milliseconds():
		return r, errors.New("decode lease: owner or ttl is out of range")
	}
	return r, nil
}

// maxTTL bounds what a lease may claim.
const maxTTL = 24 * time.Hour

// expired reports whether the lease is free at now. One that was renewed in
// the future, by more than clocks differ, is of no use.
func (r leaseRecord) expired(now time.Time) bool {
	age := now.Sub(time.UnixMilli(r.Renewed))
	ttl := time.Duration(r.TTL) * time.Millisecond
	return age > ttl || age < -ttl
}

// lease is this process's view of the lease.
type lease struct {
	bucket objstore.Bucket
	owner  string
	ttl    time.Duration
	now    func() time.Time
	sleep  func(context.Context, time.Duration) error
}

// read returns the lease, or false if there is none.
func (l *lease) read(ctx context.Context) (leaseRecord, bool, error) {
	b, err := l.bucket.Get(ctx, leaseKey)
	if objstore.IsNotFound(err) {
		return leaseRecord{}, false, nil
	}
	var r leaseRecord
	if err == nil {
		r, err = decodeLease(b)
	}
	if err != nil {
		return r, false, fmt.Errorf("compactor: read %s: %w", leaseKey, err)
	}
	return r, true, nil
}

func (l *lease) write(ctx context.Context) error {
	b, err := json.Marshal(leaseRecord{Version: 1, Owner: l.owner, Renewed: l.now().UnixMilli(), TTL: l.ttl.Milliseconds()})
	if err == nil {
		err = l.bucket.Put(ctx, leaseKey, b)
	}
	if err != nil {
		return fmt.Errorf("compactor: write the lease: %w", err)
	}
	return nil
}

// acquire takes the lease or renews it. If another has it the error is
// ErrLeased.
func (l *lease) acquire(ctx context.Context) error {
	r, ok, err := l.read(ctx)
	if err != nil {
		return err
	}
	own := ok && r.Owner == l.owner && !r.expired(l.now())
	if ok && r.Owner != l.owner && !r.expired(l.now()) {
		return fmt.Errorf("%w: %q", ErrLeased, r.Owner)
	}
	if err := l.write(ctx); err != nil || own {
		return err
	}
	if err := l.sleep(ctx, settle); err != nil {
		return err
	}
	return l.check(ctx)
}

// check returns an error unless this process has the lease.
func (l *lease) check(ctx context.Context) error {
	r, ok, err := l.read(ctx)
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%w: it was removed", ErrLeased)
	case r.Owner != l.owner:
		return fmt.Errorf("%w: %q", ErrLeased, r.Owner)
	case r.expired(l.now()):
		return fmt.Errorf("%w: it has expired", ErrLeased)
	}
	return nil
}

// maxSkew is how much this process's clock may differ from the store's. Clients of
// stores, too, begin to be refused there.
const maxSkew = 15 * time.Minute

// clock returns an error if this process's clock and the store's differ: with one
// that is wrong by days everything is expired, or files are deleted that readers
// have only just been told to leave. The lease, which has just been written, has
// the time of both.
func (l *lease) clock(ctx context.Context) error {
	r, ok, err := l.read(ctx)
	if err != nil || !ok {
		return err // that it is gone is found where it is checked
	}
	info, err := l.bucket.Stat(ctx, leaseKey)
	if err != nil {
		return fmt.Errorf("compactor: read the time of %s: %w", leaseKey, err)
	}
	if skew := time.UnixMilli(r.Renewed).Sub(info.Modified); !info.Modified.IsZero() && skew.Abs() > maxSkew {
		return fmt.Errorf("compactor: the clock of %q and that of the store differ by %s: nothing is merged or deleted until they agree", r.Owner, skew.Abs().Round(time.Second))
	}
	return nil
}

// renew extends the lease, if it is still this process's.
func (l *lease) renew(ctx context.Context) error {
	if err := l.check(ctx); err != nil {
		return err
	}
	return l.write(ctx)
}

// release lets another take over at once.
func (l *lease) release(ctx context.Context) error {
	if err := l.check(ctx); errors.Is(err, ErrLeased) {
		return nil
	} else if err != nil {
		return err
	}
	if err := l.bucket.Delete(ctx, leaseKey); err != nil {
		return fmt.Errorf("compactor: release the lease: %w", err)
	}
	return nil
}

// hold renews the lease while f runs, and ends f's context when it is lost.
func (l *lease) hold(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		renewed := l.now()
		for {
			if err := l.sleep(ctx, l.ttl/3); err != nil {
				return
			}
			err := l.renew(ctx)
			switch {
			case err == nil:
				renewed = l.now()
			case errors.Is(err, ErrLeased), l.now().Sub(renewed) > l.ttl:
				cancel(err)
				return
			}
		}
	}()
	err := f(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrLeased) {
		err = cause
	}
	cancel(nil)
	<-done
	return err
}

// sleep waits, or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
