package azure

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/storage/objstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testKey = "a2V5"

func testBucket(t *testing.T, h http.HandlerFunc, change func(*Config)) *Bucket {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c := DefaultConfig()
	c.Endpoint, c.Account, c.Container, c.AccountKey = srv.URL, "acc", "logs", testKey
	if change != nil {
		change(&c)
	}
	return open(t, c)
}

func open(t *testing.T, c Config) *Bucket {
	t.Helper()
	b, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// refusal is an error as the service sends it.
func refusal(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if code != "" {
			w.Header().Set("x-ms-error-code", code)
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "\ufeff<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>%s</Code><Message>%s\nRequestId:1\nTime:2</Message></Error>", code, message)
	}
}

func call(t *testing.T, b *Bucket, op string) (err error) {
	t.Helper()
	switch op {
	case "get":
		_, err = b.Get(t.Context(), "k")
	case "stat":
		_, err = b.Stat(t.Context(), "k")
	case "list":
		_, err = b.List(t.Context(), "k", true)
	case "folder":
		_, err = b.List(t.Context(), "k", false)
	case "put":
		err = b.Put(t.Context(), "k", []byte("x"))
	case "delete":
		err = b.Delete(t.Context(), "k")
	default:
		t.Fatal(op)
	}
	return err
}

// TestAnswersAreClassified gives the answers of the service.
func TestAnswersAreClassified(t *testing.T) {
	sas := func(c *Config) { c.AccountKey, c.SASToken = "", "sv=2022-11-02&sig=topsecret" }
	connection := func(c *Config) {
		c.ConnectionString = "BlobEndpoint=" + c.Endpoint + ";SharedAccessSignature=sig=topsecret"
		c.Endpoint, c.Account, c.AccountKey = "", "", ""
	}
	for _, x := range []struct {
		op     string
		status int
		code   string
		change func(*Config)
		want   objstore.Kind
		hint   string
	}{
		{"put", 503, "ServerBusy", nil, objstore.Throttled, "m1"},
		{"get", 429, "", nil, objstore.Throttled, ""},
		{"get", 503, "", nil, objstore.Throttled, ""},
		{"put", 500, "InternalError", nil, objstore.Transient, ""},
		{"put", 500, "OperationTimedOut", nil, objstore.Transient, ""},
		{"list", 502, "", nil, objstore.Transient, ""},
		{"get", 408, "", nil, objstore.Transient, ""},
		{"put", 400, "Md5Mismatch", nil, objstore.Transient, ""},
		{"put", 400, "InvalidHeaderValue", nil, objstore.Permanent, ""},
		{"put", 412, "LeaseIdMissing", nil, objstore.Permanent, ""},
		{"get", 404, "BlobNotFound", nil, objstore.NotFound, ""},
		{"stat", 404, "BlobNotFound", nil, objstore.NotFound, ""},
		{"get", 404, "ContainerNotFound", nil, objstore.Denied, "create the container logs"},
		{"put", 404, "ContainerNotFound", nil, objstore.Denied, "create the container logs"},
		{"delete", 404, "ContainerNotFound", nil, objstore.Denied, "create the container logs"},
		{"put", 409, "ContainerBeingDeleted", nil, objstore.Denied, "create the container logs"},
		{"get", 404, "", nil, objstore.Denied, "storage.azure.endpoint"},
		{"list", 301, "", nil, objstore.Denied, "storage.azure.endpoint"},
		{"list", 403, "AuthenticationFailed", nil, objstore.Denied, "correct storage.azure.account-key"},
		{"list", 403, "AuthenticationFailed", sas, objstore.Denied, "renew storage.azure.sas-token"},
		{"list", 403, "AuthenticationFailed", connection, objstore.Denied, "renew storage.azure.connection-string"},
		{"put", 403, "AuthorizationPermissionMismatch", sas, objstore.Denied, "allow write in the SAS token"},
		{"get", 403, "AuthorizationFailure", nil, objstore.Denied, "firewall"},
		{"get", 403, "", sas, objstore.Denied, "allow read in the SAS token"},
		{"get", 403, "KeyBasedAuthenticationNotPermitted", nil, objstore.Denied, "use an identity"},
		{"list", 401, "NoAuthenticationInformation", nil, objstore.Denied, "storage.azure.account-key"},
		{"list", 401, "", nil, objstore.Denied, "storage.azure.account-key"},
		{"get", 403, "AccountIsDisabled", nil, objstore.Denied, "storage.azure.account"},
		{"delete", 409, "BlobImmutableDueToPolicy", nil, objstore.Denied, "immutability"},
		{"get", 409, "BlobArchived", nil, objstore.Denied, "archive"},
		{"put", 409, "EncryptionScopeNotFound", nil, objstore.Denied, "storage.azure.encryption-scope"},
	} {
		calls := 0
		b := testBucket(t, func(w http.ResponseWriter, r *http.Request) {
			calls++
			refusal(x.status, x.code, "m1")(w, r)
		}, x.change)
		err := call(t, b, x.op)
		text := fmt.Sprint(err)
		if objstore.KindOf(err) != x.want || !strings.Contains(text, x.hint) || calls != 1 {
			t.Errorf("%s, %d %s: %s, %v after %d calls; want %s, %q", x.op, x.status, x.code, objstore.KindOf(err), err, calls, x.want, x.hint)
		}
		if strings.Contains(text, "\n") || strings.Contains(text, "secret") || strings.Contains(text, "RequestId") {
			t.Errorf("%s, %d %s: %q", x.op, x.status, x.code, text)
		}
	}
}

// TestNoSignatureInErrors: errors of the network do not show the URL.
func TestNoSignatureInErrors(t *testing.T) {
	c := DefaultConfig()
	c.Endpoint, c.Account, c.Container, c.SASToken = "http://127.0.0.1:1", "acc", "logs", "sig=topsecret"
	b := open(t, c)
	for _, op := range []string{"get", "stat", "list", "folder", "put", "delete"} {
		if err := call(t, b, op); objstore.KindOf(err) != objstore.Transient || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "does a service listen at storage.azure.endpoint?") {
			t.Errorf("%s: %v", op, err)
		}
	}
}

// TestThrottlingPasses goes through the layer that tries again.
func TestThrottlingPasses(t *testing.T) {
	calls := 0
	b := testBucket(t, func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls < 3 {
			refusal(http.StatusServiceUnavailable, "ServerBusy", "slow down")(w, r)
			return
		}
		io.WriteString(w, "123456789")
	}, nil)
	got, err := objstore.Resilient(b, objstore.DefaultRetryConfig(), nil).Get(t.Context(), "k")
	if err != nil || string(got) != "123456789" || calls != 3 {
		t.Fatalf("%q after %d calls, %v", got, calls, err)
	}
}

// TestBrokenBodies cuts answers short and spoils them.
func TestBrokenBodies(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "only this")
		},
		"cut without a length": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "only this")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"checksum": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-MD5", base64.StdEncoding.EncodeToString(make([]byte, md5.Size)))
			io.WriteString(w, "spoiled")
		},
		"reset": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		b := testBucket(t, h, nil)
		if got, err := b.Get(t.Context(), "k"); objstore.KindOf(err) != objstore.Transient || err == nil {
			t.Errorf("%s: %q, %v; want an error that passes", name, got, err)
		}
	}
}

// TestOddAnswers are those of something that is not the service.
func TestOddAnswers(t *testing.T) {
	page := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
	}
	same := page(`<EnumerationResults><Blobs></Blobs><NextMarker>a</NextMarker></EnumerationResults>`)
	for _, x := range []struct {
		name, op string
		h        http.HandlerFunc
		want     string
	}{
		{"a page of a proxy", "put", page("<html>welcome</html>"), "correct storage.azure.endpoint"},
		{"a page of a proxy", "list", page("<html>welcome</p>"), "correct storage.azure.endpoint"},
		{"the same page", "list", same, "same page"},
		{"the same page", "folder", same, "same page"},
		{"stored something else", "put", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-MD5", base64.StdEncoding.EncodeToString(make([]byte, md5.Size)))
			w.WriteHeader(http.StatusCreated)
		}, "the service stored 0000"},
		{"endless", "list", endless(http.StatusOK), "too large"},
		{"endless error", "get", endless(http.StatusBadGateway), "too large"},
	} {
		err := call(t, testBucket(t, x.h, nil), x.op)
		if err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s, %s: %v; want %q", x.op, x.name, err, x.want)
		}
	}
}

func endless(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		for chunk := strings.Repeat(" ", 1<<20); ; {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	}
}

// TestUpload shows what an upload asks of the service.
func TestUpload(t *testing.T) {
	var got *http.Request
	b := testBucket(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.WriteHeader(http.StatusCreated)
	}, func(c *Config) { c.AccessTier, c.EncryptionScope = "Cool", "scope-1" })
	if err := b.Put(t.Context(), "t/1a/1:2:3 +%&ü", []byte("123456789")); err != nil {
		t.Fatal(err)
	}
	if got.Method != http.MethodPut || got.RequestURI != "/logs/t%2F1a%2F1:2:3%20+%25&%C3%BC" || got.ContentLength != 9 {
		t.Errorf("%s %s, %d bytes", got.Method, got.RequestURI, got.ContentLength)
	}
	for name, want := range map[string]string{
		"Content-MD5": "JfnnlDI7RTiF9RgfG2JNCw==", "x-ms-blob-type": "BlockBlob", "x-ms-access-tier": "Cool", "x-ms-encryption-scope": "scope-1",
		"x-ms-blob-content-type": "application/octet-stream",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	if !strings.HasPrefix(got.Header.Get("Authorization"), "SharedKey acc:") {
		t.Errorf("authorization %q", got.Header.Get("Authorization"))
	}
}

// TestFolders: accounts with a hierarchical namespace show folders as blobs.
func TestFolders(t *testing.T) {
	b := testBucket(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("comp") == "list" {
			io.WriteString(w, `<EnumerationResults><Blobs>
				<Blob><Name>a</Name><Properties><ResourceType>directory</ResourceType></Properties></Blob>
				<Blob><Name>a/</Name><Properties></Properties></Blob>
				<Blob><Name>a/b</Name><Properties><ResourceType>file</ResourceType></Properties></Blob>
				</Blobs><NextMarker/></EnumerationResults>`)
			return
		}
		w.Header().Set("x-ms-meta-hdi_isfolder", "true")
	}, nil)
	if keys, err := b.List(t.Context(), "", true); err != nil || len(keys) != 1 || keys[0] != "a/b" {
		t.Errorf("%q, %v", keys, err)
	}
	for _, op := range []string{"get", "stat"} {
		if err := call(t, b, op); !objstore.IsNotFound(err) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func TestNames(t *testing.T) {
	for key, want := range map[string]string{
		"t/1a/1:2:3":              "t/1a/1-2-3",
		"a/b/t/1a/1:2:3":          "a/b/t/1a/1-2-3",
		"t/1a/1:2:x":              "t/1a/1:2:x",
		"t/1a/1:2":                "t/1a/1:2",
		"t/xyz/1:2:3":             "t/xyz/1:2:3",
		"1a/1:2:3":                "1a/1:2:3",
		"t/1A/1:2:3":              "t/1A/1:2:3",
		"index/a/1-2-3.tsdb.gz":   "index/a/1-2-3.tsdb.gz",
		"index/x_1/1-2-3":         "index/x_1/1-2-3",
		"t/11112222333344445/1-2": "t/11112222333344445/1-2",
		"t/1a/1-2-3":              "",
		"t./1a/1:2:3":             "",
		"t/a.":                    "",
		"t/\xff":                  "",
		"t//a":                    "",
	} {
		n := names{"-"}
		blob, err := n.blob(key)
		if blob != want || (err != nil) != (want == "") {
			t.Errorf("%q became %q, %v; want %q", key, blob, err, want)
		}
		if err == nil && n.key(blob) != key {
			t.Errorf("%q became %q on its way back", key, n.key(blob))
		}
		if blob, err := (names{":"}).blob(key); err == nil && (blob != key || (names{":"}).key(blob) != key) {
			t.Errorf("with colons %q became %q", key, blob)
		}
	}
	for p, want := range map[string]string{"": "", "t/1a/1:2": "t/1a/1", "t/1a/1-2": "t/1a/1-2", "a:b/c": "a:b/c", "a:": "a"} {
		if got := (names{"-"}).prefix(p); got != want {
			t.Errorf("prefix %q became %q, want %q", p, got, want)
		}
	}
}

// FuzzNames: no two keys share a blob.
func FuzzNames(f *testing.F) {
	for _, k := range []string{"t/1a/1:2:3", "t/1a/1-2-3", "a", "index/a/b", "t/1a/1:2-3", "t/1a/1_2_3"} {
		f.Add(k, true)
		f.Add(k, false)
	}
	f.Fuzz(func(t *testing.T, key string, dash bool) {
		n := names{"_"}
		if dash {
			n = names{"-"}
		}
		blob, err := n.blob(key)
		if err != nil {
			return
		}
		if back := n.key(blob); back != key {
			t.Fatalf("%q became %q and then %q", key, blob, back)
		}
		for i := range key {
			if !strings.HasPrefix(blob, n.prefix(key[:i])) {
				t.Fatalf("blob %q does not begin with %q", blob, n.prefix(key[:i]))
			}
		}
	})
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"":                          func(*Config) {},
		"account: must be set":      func(c *Config) { c.Account = "" },
		`account: "A.b"`:            func(c *Config) { c.Account = "A.b" },
		"container: must be set":    func(c *Config) { c.Container = "" },
		`container: "a--b"`:         func(c *Config) { c.Container = "a--b" },
		`container: "ab"`:           func(c *Config) { c.Container = "ab" },
		"container: \"aaaa":         func(c *Config) { c.Container = strings.Repeat("a", 64) },
		`endpoint: "ftp://x"`:       func(c *Config) { c.Endpoint = "ftp://x" },
		"an identity needs https":   func(c *Config) { c.Endpoint, c.AccountKey = "http://x", "" },
		"account-key: is not in":    func(c *Config) { c.AccountKey = "%" },
		"sas-token: does not go":    func(c *Config) { c.SASToken = "sig=1" },
		"sas-token: is not one":     func(c *Config) { c.AccountKey, c.SASToken = "", "topsecret" },
		"client-secret: needs":      func(c *Config) { c.AccountKey, c.ClientSecret = "", "s" },
		"does not go with account,": func(c *Config) { c.ConnectionString = "x" },
		"connection-string: is not": func(c *Config) {
			*c = Config{Container: c.Container, ChunkDelimiter: "-", ConnectionString: "topsecret"}
		},
		"connection-string: has ne": func(c *Config) {
			*c = Config{Container: c.Container, ChunkDelimiter: "-", ConnectionString: "AccountName=acc"}
		},
		"chunk-delimiter: \"/\"":    func(c *Config) { c.ChunkDelimiter = "/" },
		`access-tier: "Archive"`:    func(c *Config) { c.AccessTier = "Archive" },
		"tls.key-file: must be set": func(c *Config) { c.TLS.CertFile = "c" },
	} {
		c := DefaultConfig()
		c.Account, c.Container, c.AccountKey = "acc", "logs", testKey
		change(&c)
		errs := c.Validate()
		if want == "" && len(errs) > 0 || want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), want)) {
			t.Errorf("%v, want %q", errs, want)
		}
		if strings.Contains(fmt.Sprint(errs), "topsecret") {
			t.Errorf("%v shows a secret", errs)
		}
		if _, err := Open(t.Context(), c); (err != nil) != (want != "") {
			t.Errorf("open with %s: %v", want, err)
		}
	}
}

func TestConnectionString(t *testing.T) {
	for s, want := range map[string]account{
		"AccountName=acc;AccountKey=" + testKey: {"https://acc.blob.core.windows.net", "acc", testKey, ""},
		"DefaultEndpointsProtocol=http;AccountName=acc;AccountKey=a2V5;EndpointSuffix=core.chinacloudapi.cn;": {"http://acc.blob.core.chinacloudapi.cn", "acc", testKey, ""},
		"BlobEndpoint=https://x/acc/;SharedAccessSignature=sv=1&sig=a%3D":                                     {"https://x/acc/", "", "", "sv=1&sig=a%3D"},
		"BlobEndpoint=https://x;AccountName=acc;AccountKey=a2V5;SharedAccessSignature=sig=1":                  {"https://x", "acc", testKey, ""},
		"AccountName=acc":                        {},
		"BlobEndpoint=ftp://x;AccountKey=a2V5":   {},
		"AccountName=acc;AccountKey=%":           {},
		"AccountKey=a2V5":                        {},
		"AccountName=../x;AccountKey=a2V5":       {},
		"BlobEndpoint=https://x;AccountKey=a2V5": {},
		"UseDevelopmentStorage":                  {},
	} {
		a, err := parseConnection(s)
		if err != nil {
			a = account{}
		}
		if a != want || (err != nil) != (want == account{}) {
			t.Errorf("%s: %+v, %v", s, a, err)
		}
	}
}

// entra is a stand-in for what gives tokens, and for the service that takes
// them.
func entra(t *testing.T, token http.HandlerFunc) (url, ca string) {
	t.Helper()
	certs := testcert.New(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/oauth2/") {
			token(w, r)
			return
		}
		if r.Header.Get("Authorization") != "Bearer tok" {
			t.Errorf("authorization %q", r.Header.Get("Authorization"))
		}
		io.WriteString(w, `<EnumerationResults><Blobs><Blob><Name>a</Name></Blob></Blobs></EnumerationResults>`)
	}))
	var err error
	if srv.TLS, err = (tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key}).Config(nil); err != nil {
		t.Fatal(err)
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL, certs.CA
}

// identityBucket is one whose identity asks at url.
func identityBucket(t *testing.T, url, ca string, change func(*Config)) *Bucket {
	t.Helper()
	c := DefaultConfig()
	c.Endpoint, c.Account, c.Container, c.TLS.CAFile = url, "acc", "logs", ca
	if change != nil {
		change(&c)
	}
	b := open(t, c)
	b.identity.authority, b.identity.instanceHost, b.identity.http = url, url, b.client
	return b
}

// clearEnv takes identities of the environment away.
func clearEnv(t *testing.T) {
	for _, v := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"} {
		t.Setenv(v, "")
	}
}

// TestIdentities shows the request of each kind, and that its token is used.
func TestIdentities(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("jwt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	secret := func(c *Config) { c.TenantID, c.ClientID, c.ClientSecret = "ten", "app", "sec" }
	for name, x := range map[string]struct {
		env    map[string]string
		change func(*Config)
		want   string // METHOD path?form
	}{
		"machine":          {nil, nil, "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com"},
		"one of several":   {nil, func(c *Config) { c.ClientID = "app" }, "GET /metadata/identity/oauth2/token?api-version=2018-02-01&client_id=app&resource=https%3A%2F%2Fstorage.azure.com"},
		"secret":           {nil, secret, "POST /ten/oauth2/v2.0/token?client_id=app&client_secret=sec&grant_type=client_credentials&scope=https%3A%2F%2Fstorage.azure.com%2F.default"},
		"secret by env":    {map[string]string{"AZURE_TENANT_ID": "ten", "AZURE_CLIENT_ID": "app", "AZURE_CLIENT_SECRET": "sec"}, nil, "POST /ten/oauth2/v2.0/token?client_id=app&client_secret=sec&grant_type=client_credentials&scope=https%3A%2F%2Fstorage.azure.com%2F.default"},
		"workload":         {map[string]string{"AZURE_TENANT_ID": "ten", "AZURE_CLIENT_ID": "app", "AZURE_FEDERATED_TOKEN_FILE": file}, nil, "POST /ten/oauth2/v2.0/token?client_assertion=jwt&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_id=app&grant_type=client_credentials&scope=https%3A%2F%2Fstorage.azure.com%2F.default"},
		"settings over it": {map[string]string{"AZURE_TENANT_ID": "x", "AZURE_CLIENT_ID": "x", "AZURE_FEDERATED_TOKEN_FILE": file}, secret, "POST /ten/oauth2/v2.0/token?client_id=app&client_secret=sec&grant_type=client_credentials&scope=https%3A%2F%2Fstorage.azure.com%2F.default"},
	} {
		t.Run(name, func(t *testing.T) {
			clearEnv(t)
			for k, v := range x.env {
				t.Setenv(k, v)
			}
			issued := 0
			url, ca := entra(t, func(w http.ResponseWriter, r *http.Request) {
				issued++
				if err := r.ParseForm(); err != nil {
					t.Error(err)
				}
				if got := r.Method + " " + r.URL.Path + "?" + r.Form.Encode(); got != x.want {
					t.Errorf("got %s, want %s", got, x.want)
				}
				if (r.Header.Get("Metadata") == "true") != (r.Method == http.MethodGet) {
					t.Errorf("headers %v", r.Header)
				}
				// The machine's service quotes its numbers.
				expires := any(3600)
				if r.Method == http.MethodGet {
					expires = "3600"
				}
				json.NewEncoder(w).Encode(map[string]any{"access_token": "tok", "expires_in": expires, "token_type": "Bearer"})
			})
			b := identityBucket(t, url, ca, x.change)
			for range 3 {
				if keys, err := b.List(t.Context(), "", true); err != nil || len(keys) != 1 {
					t.Fatalf("%q, %v", keys, err)
				}
			}
			if issued != 1 {
				t.Errorf("%d tokens for 3 requests", issued)
			}
		})
	}
}

// TestBadIdentities names what to mend.
func TestBadIdentities(t *testing.T) {
	clearEnv(t)
	secret := func(c *Config) { c.TenantID, c.ClientID, c.ClientSecret = "ten", "app", "topsecret" }
	for _, x := range []struct {
		name   string
		status int
		body   string
		change func(*Config)
		want   objstore.Kind
		hint   string
	}{
		{"bad secret", 401, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1"}`, secret, objstore.Denied, "401 invalid_client: AADSTS7000215: Invalid client secret provided. (correct storage.azure.tenant-id, client-id and client-secret)"},
		{"no tenant", 400, `{"error":"invalid_request"}`, secret, objstore.Denied, "correct storage.azure.tenant-id"},
		{"outage", 503, "sorry", secret, objstore.Transient, "503 sorry"},
		{"busy", 429, "", secret, objstore.Transient, ""},
		{"a page", 200, "<html>", secret, objstore.Denied, "the answer has no token"},
		{"no identity", 400, `{"error":"invalid_request","error_description":"Identity not found"}`, nil, objstore.Denied, "give this machine a managed identity"},
		{"machine's outage", 500, "", nil, objstore.Transient, ""},
		{"machine's page", 200, "{}", nil, objstore.Denied, "something else answers"},
	} {
		url, ca := entra(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(x.status)
			io.WriteString(w, x.body)
		})
		err := call(t, identityBucket(t, url, ca, x.change), "list")
		text := fmt.Sprint(err)
		if objstore.KindOf(err) != x.want || !strings.Contains(text, x.hint) || strings.Contains(text, "\n") || strings.Contains(text, "topsecret") {
			t.Errorf("%s: %s, %v; want %s, %q", x.name, objstore.KindOf(err), err, x.want, x.hint)
		}
	}
	url, ca := entra(t, func(http.ResponseWriter, *http.Request) { t.Error("asked") })
	b := identityBucket(t, url, ca, nil)
	b.identity.instanceHost = "http://127.0.0.1:1"
	if err := call(t, b, "list"); objstore.KindOf(err) != objstore.Denied || !strings.Contains(err.Error(), "no managed identity: set storage.azure.account-key") {
		t.Errorf("nobody there: %v", err)
	}
	t.Setenv("AZURE_FEDERATED_TOKEN_FILE", filepath.Join(t.TempDir(), "none"))
	b = identityBucket(t, url, ca, func(c *Config) { c.TenantID, c.ClientID = "ten", "app" })
	if err := call(t, b, "list"); objstore.KindOf(err) != objstore.Denied || !strings.Contains(err.Error(), "let Kubernetes mount") {
		t.Errorf("no file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := identityBucket(t, url, ca, nil).List(ctx, "", true); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestRoleIsMissing: with an identity the hint is about its role.
func TestRoleIsMissing(t *testing.T) {
	clearEnv(t)
	certs := testcert.New(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/oauth2/") {
			io.WriteString(w, `{"access_token":"tok","expires_in":3600}`)
			return
		}
		refusal(http.StatusForbidden, "AuthorizationPermissionMismatch", "no")(w, r)
	}))
	var err error
	if srv.TLS, err = (tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key}).Config(nil); err != nil {
		t.Fatal(err)
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	b := identityBucket(t, srv.URL, certs.CA, nil)
	if err := call(t, b, "put"); objstore.KindOf(err) != objstore.Denied || !strings.Contains(err.Error(), "give the managed identity the role Storage Blob Data Contributor") {
		t.Errorf("got %v", err)
	}
}

// FuzzConnectionString: what is taken names a service and one way in.
func FuzzConnectionString(f *testing.F) {
	f.Add("DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5;EndpointSuffix=core.windows.net")
	f.Add("BlobEndpoint=http://127.0.0.1:1/acc;SharedAccessSignature=sv=1&sig=a%3D;")
	f.Add(";;=;a=b;AccountName")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseConnection(s)
		if err != nil {
			return
		}
		if !strings.HasPrefix(a.endpoint, "http://") && !strings.HasPrefix(a.endpoint, "https://") {
			t.Fatalf("endpoint %q", a.endpoint)
		}
		if (a.key == "") == (a.sas == "") || a.key != "" && a.name == "" {
			t.Fatalf("%+v", a)
		}
	})
}

// FuzzAnswer: whatever a service says becomes one line of bounded length.
func FuzzAnswer(f *testing.F) {
	f.Add(404, "BlobNotFound", []byte("<Error><Code>BlobNotFound</Code><Message>a\nb</Message></Error>"), uint8(0))
	f.Add(403, "", []byte("\x00\xff"+strings.Repeat("x", 2000)), uint8(1))
	f.Fuzz(func(t *testing.T, status int, code string, body []byte, op uint8) {
		b := &Bucket{cfg: Config{Container: "logs"}}
		err := b.failed([]string{"get", "put", "list", "delete"}[op%4], "k", &azcore.ResponseError{
			StatusCode: status, ErrorCode: code, RawResponse: &http.Response{Body: io.NopCloser(bytes.NewReader(body))},
		})
		if text := err.Error(); strings.ContainsAny(text, "\n\r\x00") || len(text) > 1800 {
			t.Fatalf("%d bytes: %q", len(text), text)
		}
		if objstore.IsNotFound(err) && code != "BlobNotFound" && code != "ResourceNotFound" {
			t.Fatalf("%d %q is not found", status, code)
		}
	})
}
