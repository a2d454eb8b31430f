package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/storage/objstore"
)

// A connection whose dial lost against another one that became free is closed
// when net/http gets to it, which may be after the end of the last test.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

func testBucket(t *testing.T, h http.HandlerFunc, change func(*Config)) *Bucket {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c := DefaultConfig()
	c.Endpoint, c.Bucket, c.NoAuth = srv.URL, "logs", true
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

// refusal is an error as the JSON API sends it.
func refusal(status int, reason, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		if reason != "" {
			fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"errors":[{"message":%q,"domain":"global","reason":%q}]}}`, status, message, message, reason)
			return
		}
		io.WriteString(w, message)
	}
}

// TestAnswersAreClassified gives the answers of the service.
func TestAnswersAreClassified(t *testing.T) {
	for _, x := range []struct {
		op              string
		status          int
		reason, message string
		want            objstore.Kind
		hint            string
	}{
		{"get", 503, "backendError", "Backend Error", objstore.Throttled, ""},
		{"put", 429, "rateLimitExceeded", "The object exceeded the rate limit for object mutation operations", objstore.Throttled, ""},
		{"get", 403, "userRateLimitExceeded", "slow down", objstore.Throttled, ""},
		{"get", 429, "", "", objstore.Throttled, ""},
		{"put", 500, "internalError", "We encountered an internal error", objstore.Transient, ""},
		{"get", 502, "", "<html>\n\n<b>Bad</b>\n", objstore.Transient, "502 Bad Gateway: <html> <b>Bad</b>"},
		{"put", 408, "", "", objstore.Transient, ""},
		{"put", 400, "invalid", "Provided CRC32C \"AAAAAA==\" doesn't match calculated CRC32C \"yZRlqg==\".", objstore.Transient, ""},
		{"put", 400, "invalid", "Required", objstore.Permanent, ""},
		{"put", 400, "invalid", "Cloud KMS key is in another location", objstore.Denied, "storage.gcs.kms-key-name"},
		{"put", 412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.", objstore.Permanent, ""},
		{"get", 404, "", "No such object: logs/k", objstore.NotFound, ""},
		{"stat", 404, "notFound", "No such object: logs/k", objstore.NotFound, ""},
		{"get", 404, "notFound", "The specified bucket does not exist.", objstore.Denied, "create the bucket logs"},
		{"list", 404, "notFound", "The specified bucket does not exist.", objstore.Denied, "create the bucket logs"},
		{"put", 404, "notFound", "Not Found", objstore.Denied, "create the bucket logs"},
		{"delete", 404, "notFound", "The specified bucket does not exist.", objstore.Denied, "create the bucket logs"},
		{"list", 401, "required", "Anonymous caller does not have storage.objects.list access", objstore.Denied, "no-auth=false"},
		{"put", 403, "forbidden", "Anonymous caller does not have access", objstore.Denied, "no-auth=false"},
		{"put", 403, "accountDisabled", "The billing account for the owning project is disabled in state absent", objstore.Denied, "billing"},
		{"delete", 403, "retentionPolicyNotMet", "Object 'logs/k' is subject to bucket's retention policy", objstore.Denied, "retention policy"},
		{"put", 403, "forbidden", "Permission denied on Cloud KMS key", objstore.Denied, "service agent"},
		{"get", 301, "", "", objstore.Denied, "storage.gcs.endpoint"},
	} {
		b := testBucket(t, refusal(x.status, x.reason, x.message), nil)
		err := call(t, b, x.op)
		if objstore.KindOf(err) != x.want || !strings.Contains(fmt.Sprint(err), x.hint) || strings.Contains(fmt.Sprint(err), "\n") {
			t.Errorf("%s, %d %s: %s, %v; want %s, %q", x.op, x.status, x.reason, objstore.KindOf(err), err, x.want, x.hint)
		}
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
	case "put":
		err = b.Put(t.Context(), "k", []byte("x"))
	case "delete":
		err = b.Delete(t.Context(), "k")
	default:
		t.Fatal(op)
	}
	return err
}

// TestThrottlingPasses goes through the layer that tries again.
func TestThrottlingPasses(t *testing.T) {
	calls := 0
	b := testBucket(t, func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls < 3 {
			refusal(http.StatusTooManyRequests, "rateLimitExceeded", "slow down")(w, r)
			return
		}
		w.Header().Set("X-Goog-Hash", "crc32c=4waSgw==")
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
			w.Header().Add("X-Goog-Hash", "md5=abc=")
			w.Header().Add("X-Goog-Hash", "crc32c=AAAAAA==")
			io.WriteString(w, "spoiled")
		},
		"checksum in one header": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Goog-Hash", "md5=abc=, crc32c=AAAAAA==")
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
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
	}
	for _, x := range []struct {
		name, op string
		h        http.HandlerFunc
		want     string
	}{
		{"a page of a proxy", "put", text("<html>welcome</html>"), "storage.gcs.endpoint"},
		{"a page of a proxy", "list", text("<html>welcome</html>"), "storage.gcs.endpoint"},
		{"nothing stored", "put", text("{}"), `stored "" with`},
		{"less stored", "put", text(`{"name":"k","size":"0","crc32c":"AAAAAA=="}`), `with "0" bytes`},
		{"bad size", "stat", text(`{"size":"-1"}`), `size is "-1"`},
		{"no size", "stat", text(`{}`), `size is ""`},
		{"the same page", "list", text(`{"nextPageToken":"a"}`), "same page"},
		{"endless", "list", func(w http.ResponseWriter, _ *http.Request) {
			for chunk := strings.Repeat(" ", 1<<20); ; {
				if _, err := io.WriteString(w, chunk); err != nil {
					return
				}
			}
		}, "more than 16777216 bytes"},
	} {
		if err := call(t, testBucket(t, x.h, nil), x.op); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s, %s: %v; want %q", x.op, x.name, err, x.want)
		}
	}
}

// TestUpload shows what an upload sends.
func TestUpload(t *testing.T) {
	const key = "t/1a/1:2:3 +%&ü"
	b := testBucket(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.Method != http.MethodPost || r.URL.Path != "/upload/storage/v1/b/logs/o" || q.Get("name") != key || q.Get("uploadType") != "multipart" || q.Get("kmsKeyName") != "projects/p/locations/l/keyRings/r/cryptoKeys/k" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || kind != "multipart/related" || r.ContentLength <= 0 || r.Header.Get("Authorization") != "" {
			t.Errorf("headers %v, %v", r.Header, err)
		}
		parts := multipart.NewReader(r.Body, params["boundary"])
		part := func() []byte {
			p, err := parts.NextPart()
			if err != nil {
				t.Error(err)
				return nil
			}
			text, err := io.ReadAll(p)
			if err != nil {
				t.Error(err)
			}
			return text
		}
		var meta map[string]string
		if err := json.Unmarshal(part(), &meta); err != nil || meta["crc32c"] != "4waSgw==" || meta["storageClass"] != "NEARLINE" {
			t.Errorf("metadata %v, %v", meta, err)
		}
		if body := part(); string(body) != "123456789" {
			t.Errorf("body %q", body)
		}
		if _, err := parts.NextPart(); err != io.EOF {
			t.Errorf("behind the body: %v", err)
		}
		json.NewEncoder(w).Encode(map[string]string{"name": key, "size": "9", "crc32c": "4waSgw=="})
	}, func(c *Config) {
		c.StorageClass, c.KMSKeyName = "NEARLINE", "projects/p/locations/l/keyRings/r/cryptoKeys/k"
	})
	if err := b.Put(t.Context(), key, []byte("123456789")); err != nil {
		t.Fatal(err)
	}
}

// TestKeyIsOnePart: a key with slashes and odd characters is one part of the path.
func TestKeyIsOnePart(t *testing.T) {
	var got string
	b := testBucket(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.RequestURI
		io.WriteString(w, `{"size":"1"}`)
	}, nil)
	if _, err := b.Stat(t.Context(), "a/b?c#d%e"); err != nil || got != "/storage/v1/b/logs/o/a%2Fb%3Fc%23d%25e?fields=size,updated" {
		t.Fatalf("%s, %v", got, err)
	}
	if err := b.Put(t.Context(), "a\xff", nil); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Fatalf("a key that is not UTF-8: %v", err)
	}
}

// TestOwnCA checks the service's certificate.
func TestOwnCA(t *testing.T) {
	certs := testcert.New(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"items":[{"name":"a"}]}`) }))
	tlsCfg, err := tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key}.Config(nil)
	if err != nil {
		t.Fatal(err)
	}
	srv.TLS = tlsCfg
	srv.StartTLS()
	t.Cleanup(srv.Close)
	c := DefaultConfig()
	c.Endpoint, c.Bucket, c.NoAuth = srv.URL, "logs", true
	if _, err := open(t, c).List(t.Context(), "", true); objstore.KindOf(err) != objstore.Denied || !strings.Contains(err.Error(), "storage.gcs.tls.ca-file") {
		t.Errorf("unknown CA: %v", err)
	}
	c.TLS.CAFile = certs.CA
	if keys, err := open(t, c).List(t.Context(), "", true); err != nil || len(keys) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"":                          func(*Config) {},
		"bucket: must be set":       func(c *Config) { c.Bucket = "" },
		`bucket: "a/b"`:             func(c *Config) { c.Bucket = "a/b" },
		`endpoint: "ftp://x"`:       func(c *Config) { c.Endpoint = "ftp://x" },
		"no-auth: does not go":      func(c *Config) { c.NoAuth, c.CredentialsFile = true, "f" },
		`storage-class: "COLD"`:     func(c *Config) { c.StorageClass = "COLD" },
		`kms-key-name: "k"`:         func(c *Config) { c.KMSKeyName = "k" },
		"tls.key-file: must be set": func(c *Config) { c.TLS.CertFile = "c" },
	} {
		c := DefaultConfig()
		c.Bucket = "logs"
		change(&c)
		errs := c.Validate()
		if want == "" && len(errs) > 0 || want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), want)) {
			t.Errorf("%v, want %q", errs, want)
		}
		if _, err := Open(t.Context(), c); want != "" && (err == nil || errors.Is(err, context.Canceled)) {
			t.Errorf("open with %s: %v", want, err)
		}
	}
}

// FuzzAnswer: whatever a service says becomes one line of bounded length.
func FuzzAnswer(f *testing.F) {
	f.Add(404, []byte("No such object: logs/k"), uint8(0))
	f.Add(403, []byte(`{"error":{"code":403,"message":"a\nb","errors":[{"reason":"forbidden"}]}}`), uint8(1))
	f.Add(302, []byte("\x00\xff"+strings.Repeat("x", 2000)), uint8(2))
	f.Fuzz(func(t *testing.T, status int, body []byte, op uint8) {
		b := &Bucket{cfg: Config{Bucket: "logs"}}
		err := b.failed([]string{"get", "put", "list", "delete"}[op%4], "k", parseAnswer(status, body))
		if text := err.Error(); strings.ContainsAny(text, "\n\r\x00") || len(text) > 1500 {
			t.Fatalf("%d bytes: %q", len(text), text)
		}
		if objstore.IsNotFound(err) && status != http.StatusNotFound {
			t.Fatalf("%d is not found", status)
		}
	})
}
