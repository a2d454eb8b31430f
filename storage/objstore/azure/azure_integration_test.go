//go:build integration

package azure_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/azureserver"
	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/azure"
	"github.com/loki-go/loki-go/storage/objstore/objstoretest"
)

func config(s *azureserver.Server, container string) azure.Config {
	c := azure.DefaultConfig()
	c.Endpoint, c.Container, c.Account, c.AccountKey = s.URL, container, azureserver.Account, azureserver.Key
	return c
}

func open(t *testing.T, c azure.Config) *azure.Bucket {
	t.Helper()
	b, err := azure.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// TestAcceptance runs every store's test against an emulator.
func TestAcceptance(t *testing.T) {
	s := azureserver.New(t)
	var n atomic.Int32
	objstoretest.AcceptanceTest(t, func(t *testing.T) objstore.Bucket {
		name := fmt.Sprint("container-", n.Add(1))
		s.MakeContainer(name)
		return objstore.Resilient(open(t, config(s, name)), objstore.DefaultRetryConfig(), nil)
	})
}

// TestLongList lists more than a page, both ways.
func TestLongList(t *testing.T) {
	b := open(t, config(azureserver.New(t, "long"), "long"))
	const n = 1005
	for k := range n {
		if err := b.Put(t.Context(), fmt.Sprintf("index/file-%04d", k), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, recursive := range []bool{true, false} {
		keys, err := b.List(t.Context(), "index/", recursive)
		if err != nil || len(keys) != n || keys[n-1] != "index/file-1004" {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
	}
}

// TestCredentials goes through what lets a client in.
func TestCredentials(t *testing.T) {
	s := azureserver.New(t, "logs")
	for name, change := range map[string]func(*azure.Config){
		"account key": func(*azure.Config) {},
		"sas token":   func(c *azure.Config) { c.AccountKey, c.SASToken = "", s.SAS("logs", "rwdl") },
		"sas with ?":  func(c *azure.Config) { c.AccountKey, c.SASToken = "", "?"+s.SAS("logs", "rwdl") },
		"connection string": func(c *azure.Config) {
			*c = azure.DefaultConfig()
			c.Container, c.ConnectionString = "logs", "AccountName="+azureserver.Account+";AccountKey="+azureserver.Key+";BlobEndpoint="+s.URL+";"
		},
		"connection string with a sas token": func(c *azure.Config) {
			*c = azure.DefaultConfig()
			c.Container, c.ConnectionString = "logs", "BlobEndpoint="+s.URL+";SharedAccessSignature="+s.SAS("logs", "rwdl")
		},
	} {
		c := config(s, "logs")
		change(&c)
		if err := objstore.Check(t.Context(), open(t, c), "test"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestIdentity gets a token from a stand-in for Entra and goes in with it, over
// TLS.
func TestIdentity(t *testing.T) {
	certs := testcert.New(t)
	s := azureserver.NewTLS(t, certs, "logs")
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	var issued atomic.Int32
	entra := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/tenant/oauth2/v2.0/token" || r.FormValue("client_id") != "app" || r.FormValue("client_secret") != "secret" || r.FormValue("scope") != "https://storage.azure.com/.default" {
			t.Errorf("%s %v", r.URL, r.Form)
		}
		issued.Add(1)
		now := time.Now().Unix()
		token := part(map[string]string{"alg": "none", "typ": "JWT"}) + "." + part(map[string]any{
			"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/tenant/", "iat": now, "nbf": now - 60, "exp": now + 3600,
		}) + "." + base64.RawURLEncoding.EncodeToString([]byte("none"))
		fmt.Fprintf(w, `{"token_type":"Bearer","expires_in":3599,"access_token":%q}`, token)
	}))
	t.Cleanup(entra.Close)
	t.Setenv("AZURE_AUTHORITY_HOST", entra.URL)
	c := config(s, "logs")
	c.AccountKey, c.TenantID, c.ClientID, c.ClientSecret, c.TLS.CAFile = "", "tenant", "app", "secret", certs.CA
	if err := objstore.Check(t.Context(), open(t, c), "test"); err != nil {
		t.Fatal(err)
	}
	if issued.Load() != 1 {
		t.Fatalf("%d tokens for 4 requests", issued.Load())
	}
}

// TestSpoiltUpload changes a byte on the way: the service refuses the object.
func TestSpoiltUpload(t *testing.T) {
	s := azureserver.New(t, "logs")
	c := config(s, "logs")
	c.Endpoint = testkit.SpoilingProxy(t, s.URL, "a marked body", "a MARKED body") + "/" + azureserver.Account
	b := open(t, c)
	if err := b.Put(t.Context(), "k", []byte("a marked body")); objstore.KindOf(err) != objstore.Transient || !strings.Contains(fmt.Sprint(err), "MD5") {
		t.Fatalf("spoilt upload: %v", err)
	}
	if _, err := b.Stat(t.Context(), "k"); !objstore.IsNotFound(err) {
		t.Fatalf("the object is there: %v", err)
	}
	if err := b.Put(t.Context(), "k", []byte("another body")); err != nil {
		t.Fatal(err)
	}
}

// TestNamesOfChunks: blobs of chunks have the names that Loki looks for.
func TestNamesOfChunks(t *testing.T) {
	s := azureserver.New(t, "logs")
	c := config(s, "logs")
	const key = "team/1372f89b3ccb0f15/1a2008d6c30:1a2008d7402:d455c199"
	if err := open(t, c).Put(t.Context(), key, []byte("x")); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(s.URL + "/logs/team/1372f89b3ccb0f15/1a2008d6c30-1a2008d7402-d455c199?" + s.SAS("logs", "r"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "x" {
		t.Fatalf("%s %q, %v", resp.Status, body, err)
	}
	for prefix, n := range map[string]int{"": 1, key: 1, key[:38]: 1, key[:30]: 1, strings.ReplaceAll(key, ":", "-"): 0} {
		if keys, err := open(t, c).List(t.Context(), prefix, true); err != nil || len(keys) != n || n == 1 && keys[0] != key {
			t.Errorf("%s: %q, %v", prefix, keys, err)
		}
	}
}

// TestCheck finds what is wrong with a configuration and says what to mend.
func TestCheck(t *testing.T) {
	s := azureserver.New(t, "good")
	for name, x := range map[string]struct {
		change func(*azure.Config)
		want   string
	}{
		"good":             {func(*azure.Config) {}, ""},
		"no container":     {func(c *azure.Config) { c.Container = "missing" }, "create the container missing"},
		"account key":      {func(c *azure.Config) { c.AccountKey = "d3Jvbmc=" }, "correct storage.azure.account-key"},
		"sas of others":    {func(c *azure.Config) { c.AccountKey, c.SASToken = "", s.SAS("others", "rwdl") }, "storage.azure.sas-token"},
		"sas without list": {func(c *azure.Config) { c.AccountKey, c.SASToken = "", s.SAS("good", "rwd") }, "allow list in the SAS token"},
		"nobody there":     {func(c *azure.Config) { c.Endpoint = "http://127.0.0.1:1/lokigotest" }, "does a service listen at storage.azure.endpoint?"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(s, "good")
			x.change(&c)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := objstore.Check(ctx, open(t, c), "test")
			if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "\n")) {
				t.Fatalf("got %v, want %q", err, x.want)
			}
		})
	}
}
