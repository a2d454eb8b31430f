package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/loki-go/loki-go/storage/objstore/internal/remote"
)

// scope lets its holder do with objects what the account may.
const scope = "https://www.googleapis.com/auth/devstorage.read_write"

// tokenTime bounds a request for a token: sources take no context.
const tokenTime = 10 * time.Second

// maxCredentials bounds the file of credentials.
const maxCredentials = 1 << 20

// kinds of credentials that a file may hold.
var kinds = []google.CredentialsType{
	google.ServiceAccount, google.AuthorizedUser, google.ExternalAccount, google.ExternalAccountAuthorizedUser, google.ImpersonatedServiceAccount,
}

// source returns what gives tokens for cfg.
func source(ctx context.Context, cfg Config) (oauth2.TokenSource, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true // the next request is an hour off
	// Sources keep their context for as long as they live.
	ctx = context.WithValue(context.WithoutCancel(ctx), oauth2.HTTPClient, &http.Client{Transport: transport, Timeout: tokenTime})
	if cfg.CredentialsFile == "" {
		c, err := google.FindDefaultCredentials(ctx, scope)
		if err != nil {
			return nil, fmt.Errorf("credentials-file: not set, and there are no application default credentials (%s); name a file, or set no-auth for an emulator", remote.Text(err.Error()))
		}
		return c.TokenSource, nil
	}
	fail := func(err error) (oauth2.TokenSource, error) {
		return nil, fmt.Errorf("credentials-file: %w", err)
	}
	info, err := os.Stat(cfg.CredentialsFile)
	if err != nil {
		return fail(err)
	}
	if info.Size() > maxCredentials {
		return fail(fmt.Errorf("%s has more than %d bytes", cfg.CredentialsFile, maxCredentials))
	}
	text, err := os.ReadFile(cfg.CredentialsFile)
	if err != nil {
		return fail(err)
	}
	var head struct {
		Type google.CredentialsType `json:"type"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return fail(fmt.Errorf("%s is not JSON: %w", cfg.CredentialsFile, err))
	}
	if !slices.Contains(kinds, head.Type) {
		return fail(fmt.Errorf("%s: type %q is not one of %q", cfg.CredentialsFile, head.Type, kinds))
	}
	c, err := google.CredentialsFromJSONWithType(ctx, text, head.Type, scope)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", cfg.CredentialsFile, err))
	}
	return &named{c.TokenSource, cfg.CredentialsFile}, nil
}

// named adds the file to the errors of a source.
type named struct {
	oauth2.TokenSource
	file string
}

func (n *named) Token() (*oauth2.Token, error) {
	t, err := n.TokenSource.Token()
	if err != nil {
		return nil, &tokenError{n.file, err}
	}
	return t, nil
}

// tokens hands tokens out to requests, which wait for a new one no longer than
// their context allows. One goroutine at a time fetches; all who wait get what
// it got.
type tokens struct {
	src oauth2.TokenSource

	mu   sync.Mutex
	last *oauth2.Token
	now  *fetch // nil: none runs
	wg   sync.WaitGroup
}

type fetch struct {
	done chan struct{}
	tok  *oauth2.Token
	err  error
}

// get returns a token that is good for a while.
func (t *tokens) get(ctx context.Context) (*oauth2.Token, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	if t.last.Valid() {
		defer t.mu.Unlock()
		return t.last, nil
	}
	f := t.now
	if f == nil {
		f = &fetch{done: make(chan struct{})}
		t.now = f
		t.wg.Go(func() { t.fetch(f) })
	}
	t.mu.Unlock()
	select {
	case <-f.done:
		return f.tok, f.err
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for an access token: %w", ctx.Err())
	}
}

func (t *tokens) fetch(f *fetch) {
	f.tok, f.err = t.src.Token()
	var named *tokenError
	if f.err != nil && !errors.As(f.err, &named) {
		f.err = &tokenError{err: f.err}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.err == nil {
		t.last = f.tok
	}
	t.now = nil
	close(f.done)
}

// wait returns when no goroutine runs. No get may run or come.
func (t *tokens) wait() { t.wg.Wait() }
