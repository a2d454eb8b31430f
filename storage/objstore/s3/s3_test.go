package s3

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/storage/objstore"
)

func testBucket(t *testing.T, h http.HandlerFunc, change func(*Config)) *Bucket {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c := DefaultConfig()
	c.Endpoint, c.Bucket, c.PathStyle, c.AccessKey, c.SecretKey = srv.URL, "b", true, "a", "s"
	if change != nil {
		change(&c)
	}
	b, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// TestAnswersAreClassified gives the answers of services.
func TestAnswersAreClassified(t *testing.T) {
	for _, x := range []struct {
		status     int
		code, hint string
		want       objstore.Kind
	}{
		{503, "SlowDown", "", objstore.Throttled},
		{429, "TooManyRequests", "", objstore.Throttled},
		{429, "", "", objstore.Throttled},
		{500, "InternalError", "", objstore.Transient},
		{503, "ServiceUnavailable", "", objstore.Transient},
		{502, "", "", objstore.Transient},
		{400, "RequestTimeout", "", objstore.Transient},
		{404, "NoSuchKey", "", objstore.NotFound},
		{404, "NoSuchBucket", "create the bucket b", objstore.Denied},
		{403, "AccessDenied", "allow s3:GetObject", objstore.Denied},
		{403, "", "check the credentials", objstore.Denied},
		{403, "RequestTimeTooSkewed", "clock", objstore.Denied},
		{301, "PermanentRedirect", "storage.s3.region", objstore.Denied},
		{400, "InvalidArgument", "", objstore.Permanent},
	} {
		b := testBucket(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(x.status)
			if x.code != "" {
				fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>m</Message></Error>`, x.code)
			}
		}, nil)
		_, err := b.Get(t.Context(), "k")
		if objstore.KindOf(err) != x.want || !strings.Contains(fmt.Sprint(err), x.hint) {
			t.Errorf("%d %s: %s, %v; want %s, %q", x.status, x.code, objstore.KindOf(err), err, x.want, x.hint)
		}
	}
}

// TestBrokenBodies cuts answers short and spoils them.
func TestBrokenBodies(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("only this"))
		},
		"checksum": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("x-amz-checksum-crc32", "AAAAAA==")
			w.Write([]byte("spoiled"))
		},
		"reset": func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
	} {
		b := testBucket(t, h, nil)
		if got, err := b.Get(t.Context(), "k"); objstore.KindOf(err) != objstore.Transient || err == nil {
			t.Errorf("%s: %q, %v; want an error that passes", name, got, err)
		}
	}
}

// TestUploadHeaders shows what an upload asks of the service.
func TestUploadHeaders(t *testing.T) {
	var got http.Header
	b := testBucket(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header }, func(c *Config) {
		c.SSE, c.KMSKeyID, c.StorageClass = "kms", "key-1", "STANDARD_IA"
	})
	if err := b.Put(t.Context(), "k", []byte("123456789")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"X-Amz-Checksum-Crc32": "y/Q5Jg==", "X-Amz-Server-Side-Encryption": "aws:kms",
		"X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "key-1", "X-Amz-Storage-Class": "STANDARD_IA", "Content-Length": strconv.Itoa(9),
	} {
		if v := got.Get(name); v != want && name != "Content-Length" {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"":                          func(*Config) {},
		"bucket: must be set":       func(c *Config) { c.Bucket = "" },
		"region: must be set":       func(c *Config) { c.Region = "" },
		"set both or neither":       func(c *Config) { c.AccessKey = "a" },
		"session-token: needs":      func(c *Config) { c.SessionToken = "t" },
		`sse: "aes"`:                func(c *Config) { c.SSE = "aes" },
		"kms-key-id: needs":         func(c *Config) { c.KMSKeyID = "k" },
		`no class "COLD"`:           func(c *Config) { c.StorageClass = "COLD" },
		`endpoint: "ftp://x"`:       func(c *Config) { c.Endpoint = "ftp://x" },
		"tls.key-file: must be set": func(c *Config) { c.TLS.CertFile = "c" },
	} {
		c := DefaultConfig()
		c.Bucket = "b"
		change(&c)
		errs := c.Validate()
		if want == "" && len(errs) > 0 || want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), want)) {
			t.Errorf("%v, want %q", errs, want)
		}
	}
}
