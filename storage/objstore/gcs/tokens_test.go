package gcs

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/loki-go/loki-go/storage/objstore"
)

// account writes the key of a service account whose tokens come from url.
func account(t *testing.T, url string, change func(map[string]string)) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{
		"type": "service_account", "client_email": "writer@p.example.com", "token_uri": url + "/token", "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}
	if change != nil {
		change(m)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestServiceAccount gets a token with a signed request and uses it until it
// ends.
func TestServiceAccount(t *testing.T) {
	var issued atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if r.FormValue("grant_type") == "" || strings.Count(r.FormValue("assertion"), ".") != 2 {
				t.Errorf("token request %v", r.Form)
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token":"tok%d","token_type":"Bearer","expires_in":3600}`, issued.Add(1))
			return
		}
		if r.Header.Get("Authorization") != "Bearer tok1" {
			refusal(http.StatusUnauthorized, "authError", "Invalid Credentials")(w, r)
			return
		}
		io.WriteString(w, `{"items":[{"name":"a"}]}`)
	}))
	t.Cleanup(srv.Close)
	for name, by := range map[string]func(*Config, string){
		"file":        func(c *Config, file string) { c.CredentialsFile = file },
		"environment": func(_ *Config, file string) { t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file) },
	} {
		issued.Store(0)
		c := DefaultConfig()
		c.Endpoint, c.Bucket = srv.URL, "logs"
		by(&c, account(t, srv.URL, nil))
		b := open(t, c)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if keys, err := b.List(t.Context(), "", true); err != nil || len(keys) != 1 {
					t.Errorf("%s: %v, %v", name, keys, err)
				}
			})
		}
		wg.Wait()
		if issued.Load() != 1 {
			t.Errorf("%s: %d tokens for 8 requests", name, issued.Load())
		}
	}
}

// TestBadCredentials names what to mend.
func TestBadCredentials(t *testing.T) {
	for _, x := range []struct {
		name   string
		status int
		body   string
		want   objstore.Kind
		hint   string
	}{
		{"revoked", 400, `{"error":"invalid_grant","error_description":"Invalid JWT:\n Signature"}`, objstore.Denied, "400 invalid_grant Invalid JWT: Signature (renew storage.gcs.credentials-file"},
		{"gone", 401, `{"error":"invalid_client"}`, objstore.Denied, "renew storage.gcs.credentials-file"},
		{"outage", 503, "sorry", objstore.Transient, "503 sorry"},
		{"busy", 429, "", objstore.Transient, "429"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(x.status)
			io.WriteString(w, x.body)
		}))
		t.Cleanup(srv.Close)
		c := DefaultConfig()
		c.Endpoint, c.Bucket, c.CredentialsFile = srv.URL, "logs", account(t, srv.URL, nil)
		_, err := open(t, c).List(t.Context(), "", true)
		if objstore.KindOf(err) != x.want || !strings.Contains(fmt.Sprint(err), x.hint) || strings.Contains(fmt.Sprint(err), "\n") {
			t.Errorf("%s: %s, %v; want %s, %q", x.name, objstore.KindOf(err), err, x.want, x.hint)
		}
	}
	// Nobody there, and a key that is none.
	c := DefaultConfig()
	c.Bucket, c.CredentialsFile = "logs", account(t, "http://127.0.0.1:1", nil)
	if _, err := open(t, c).List(t.Context(), "", true); objstore.KindOf(err) != objstore.Transient || !strings.Contains(err.Error(), "within reach") {
		t.Errorf("nobody there: %v", err)
	}
	c.CredentialsFile = account(t, "http://127.0.0.1:1", func(m map[string]string) { m["private_key"] = "none" })
	if _, err := open(t, c).List(t.Context(), "", true); objstore.KindOf(err) != objstore.Denied || !strings.Contains(err.Error(), "renew storage.gcs.credentials-file") {
		t.Errorf("no key: %v", err)
	}
}

// TestForbiddenNamesThePermission: with credentials the hint is about their role.
func TestForbiddenNamesThePermission(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"access_token":"a","token_type":"Bearer","expires_in":3600}`)
			return
		}
		status := http.StatusForbidden
		if r.Method == http.MethodDelete {
			status = http.StatusUnauthorized
		}
		refusal(status, "forbidden", "writer@p.example.com does not have access")(w, r)
	}))
	t.Cleanup(srv.Close)
	c := DefaultConfig()
	c.Endpoint, c.Bucket, c.CredentialsFile = srv.URL, "logs", account(t, srv.URL, nil)
	b := open(t, c)
	for op, want := range map[string]string{
		"list": "storage.objects.list", "get": "storage.objects.get", "put": "storage.objects.create and storage.objects.delete",
		"stat": "storage.objects.get", "delete": "correct storage.gcs.credentials-file",
	} {
		if err := call(t, b, op); objstore.KindOf(err) != objstore.Denied || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", op, err, want)
		}
	}
}

func TestCredentialsFile(t *testing.T) {
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "c.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for want, file := range map[string]string{
		"no such file":       filepath.Join(t.TempDir(), "none"),
		"is not JSON":        write("key"),
		`type "web" is not`:  write(`{"type":"web"}`),
		"more than 1048576 ": write(strings.Repeat(" ", maxCredentials+1)),
	} {
		c := DefaultConfig()
		c.Bucket, c.CredentialsFile = "logs", file
		if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "credentials-file: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "none"))
	c := DefaultConfig()
	c.Bucket = "logs"
	if _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "credentials-file: not set") {
		t.Errorf("got %v", err)
	}
}

// slow gives a token when it may.
type slow struct {
	may   chan struct{}
	calls atomic.Int32
}

func (s *slow) Token() (*oauth2.Token, error) {
	s.calls.Add(1)
	<-s.may
	return &oauth2.Token{AccessToken: "a", Expiry: time.Now().Add(time.Hour)}, nil
}

// TestWaitForTokenEndsWithItsContext: a source that hangs holds nobody up for
// longer than that.
func TestWaitForTokenEndsWithItsContext(t *testing.T) {
	src := &slow{may: make(chan struct{})}
	tk := &tokens{src: src}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := tk.get(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	got := make(chan error)
	go func() {
		_, err := tk.get(context.Background())
		got <- err
	}()
	close(src.may)
	if err := <-got; err != nil || src.calls.Load() != 1 {
		t.Fatalf("%v after %d calls", err, src.calls.Load())
	}
	tk.wait()
	if _, err := tk.get(t.Context()); err != nil || src.calls.Load() != 1 {
		t.Fatalf("%v after %d calls", err, src.calls.Load())
	}
}
