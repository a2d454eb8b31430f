package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/loki-go/loki-go/gateway/internal/cache"
)

// credentials are what an Authorization header says.
type credentials struct {
	name, password string
	isUser         bool
	token          string
}

// parseAuthorization takes a header apart. The second of two forms that ApiKey
// has is in users.
func parseAuthorization(header string) (c credentials, ok bool) {
	scheme, rest, _ := strings.Cut(header, " ")
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return c, false
	}
	switch {
	case strings.EqualFold(scheme, "Basic"):
		c.name, c.password, c.isUser = pair(rest)
		return c, c.isUser
	case strings.EqualFold(scheme, "Bearer"):
		c.token = rest
		return c, true
	case strings.EqualFold(scheme, "ApiKey"):
		c.token = rest
		c.name, c.password, c.isUser = pair(rest)
		return c, true
	}
	return c, false
}

// pair decodes the base64 form of name:password.
func pair(text string) (name, password string, ok bool) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(raw), ":")
}

// errBusy says that too many passwords are being compared.
var errBusy = errors.New("too many passwords are being checked")

// identify returns whose credentials c are; nil: nobody's.
func (d *directory) identify(ctx context.Context, v *verifier, c credentials) (*Identity, error) {
	if c.token != "" {
		// The digest takes the same path for all tokens of a length; what a
		// look-up by it may tell about digests is of no use to anybody.
		if id := d.tokens[sha256.Sum256([]byte(c.token))]; id != nil {
			return id, nil
		}
	}
	if !c.isUser {
		return nil, nil
	}
	u, known := d.users[c.name]
	if !known {
		u = d.nobody
	}
	ok, err := v.verify(ctx, u, c.name, c.password)
	if err != nil || !ok || !known {
		return nil, err
	}
	return &u.Identity, nil
}

// verifier compares passwords.
type verifier struct {
	key   [32]byte // of the hashes that results are remembered by
	slots chan struct{}
	wait  time.Duration // for a slot

	// What bcrypt has found. Wrong passwords are apart, so that a flood of them
	// does not push out the right ones.
	right, wrong *cache.Cache[digest, struct{}]

	compare func(hash, password []byte) error
}

const (
	maxRight = 4096
	maxWrong = 4096
	// slotWait is how long a request waits for its turn; agents wait for 10 s
	// and more.
	slotWait = 5 * time.Second
)

func newVerifier() *verifier {
	v := &verifier{
		slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), wait: slotWait,
		right: cache.New[digest, struct{}](maxRight), wrong: cache.New[digest, struct{}](maxWrong),
		compare: bcrypt.CompareHashAndPassword,
	}
	_, _ = rand.Read(v.key[:]) // does not fail
	return v
}

// verify reports whether u has the password. name is the one that was given.
func (v *verifier) verify(ctx context.Context, u *user, name, password string) (bool, error) {
	if u.hash == nil {
		got := digest(sha256.Sum256([]byte(password)))
		return subtle.ConstantTimeCompare(got[:], u.plain[:]) == 1, nil
	}
	key := v.fingerprint(u.hash, name, password)
	if ok, known := v.remembered(key); known {
		return ok, nil
	}
	if err := v.acquire(ctx); err != nil {
		return false, err
	}
	defer func() { <-v.slots }()
	if ok, known := v.remembered(key); known { // by somebody who was first
		return ok, nil
	}
	ok := v.compare(u.hash, []byte(password)) == nil
	if ok {
		v.right.Put(key, struct{}{}, 1)
	} else {
		v.wrong.Put(key, struct{}{}, 1)
	}
	return ok, nil
}

func (v *verifier) remembered(key digest) (ok, known bool) {
	if _, ok := v.right.Get(key); ok {
		return true, true
	}
	_, known = v.wrong.Get(key)
	return false, known
}

func (v *verifier) acquire(ctx context.Context) error {
	select {
	case v.slots <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(v.wait)
	defer timer.Stop()
	select {
	case v.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errBusy
	}
}

// fingerprint stands for a question to bcrypt. A changed hash makes it another.
func (v *verifier) fingerprint(hash []byte, name, password string) (d digest) {
	h := hmac.New(sha256.New, v.key[:])
	var n [8]byte
	for _, s := range []string{string(hash), name, password} {
		binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	h.Sum(d[:0])
	return d
}
