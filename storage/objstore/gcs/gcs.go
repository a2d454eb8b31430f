// Package gcs stores objects in Google Cloud Storage.
//
// It speaks the JSON API (https://cloud.google.com/storage/docs/json_api) over
// HTTP. A Bucket sends one request for each call (List one for each thousand
// keys) and does not try again: objstore.Resilient does, with deadlines, for all
// stores alike. Uploads carry a CRC-32C that the service checks before it takes
// an object, and its answer must name it; downloads are checked against the one
// that it kept.
package gcs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/internal/remote"
)

// Config names a bucket and says how to reach it.
type Config struct {
	Endpoint        string         `yaml:"endpoint" help:"URL of the service"`
	Bucket          string         `yaml:"bucket" help:"name of the bucket"`
	CredentialsFile string         `yaml:"credentials-file" help:"JSON file with the credentials: a service account's key or a federation's configuration; empty: the application default credentials (GOOGLE_APPLICATION_CREDENTIALS, gcloud's, the machine's service account)"`
	NoAuth          bool           `yaml:"no-auth" help:"send no credentials, for emulators"`
	StorageClass    string         `yaml:"storage-class" help:"storage class of objects: STANDARD, NEARLINE, COLDLINE or ARCHIVE; empty: the bucket's default"`
	KMSKeyName      string         `yaml:"kms-key-name" help:"key that encrypts objects, as projects/P/locations/L/keyRings/R/cryptoKeys/K; empty: the bucket's default"`
	TLS             tlsconf.Client `yaml:"tls"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{Endpoint: "https://storage.googleapis.com"} }

var (
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)
	keyName    = regexp.MustCompile(`^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$`)
	classes    = []string{"STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"}
)

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case c.Bucket == "":
		bad("bucket: must be set")
	case !bucketName.MatchString(c.Bucket):
		bad("bucket: %q is not 3 or more lower case letters, digits, -, _ and .", c.Bucket)
	}
	if _, err := remote.Endpoint(c.Endpoint); err != nil {
		bad("endpoint: %w", err)
	}
	if c.NoAuth && c.CredentialsFile != "" {
		bad("no-auth: does not go with credentials-file")
	}
	if c.StorageClass != "" && !slices.Contains(classes, c.StorageClass) {
		bad("storage-class: %q is not %s", c.StorageClass, strings.Join(classes, ", "))
	}
	if c.KMSKeyName != "" && !keyName.MatchString(c.KMSKeyName) {
		bad("kms-key-name: %q is not projects/P/locations/L/keyRings/R/cryptoKeys/K", c.KMSKeyName)
	}
	for _, err := range c.TLS.Validate() {
		bad("tls.%w", err)
	}
	return errs
}

// Bucket is an objstore.Bucket.
type Bucket struct {
	cfg    Config
	client *http.Client
	tokens *tokens // nil: requests carry no credentials
	// The collections of objects, for uploads and for all else.
	upload, objects string
}

var _ objstore.Bucket = (*Bucket)(nil)

// Open finds the credentials and prepares the client. It sends no request to
// the bucket; objstore.Check does.
func Open(ctx context.Context, cfg Config) (*Bucket, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	client, err := remote.Client(cfg.TLS)
	if err != nil {
		return nil, err
	}
	base, err := remote.Endpoint(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	b := &Bucket{
		cfg: cfg, client: client,
		upload:  base.JoinPath("upload/storage/v1/b", cfg.Bucket, "o").String(),
		objects: base.JoinPath("storage/v1/b", cfg.Bucket, "o").String(),
	}
	if !cfg.NoAuth {
		src, err := source(ctx, cfg)
		if err != nil {
			return nil, err
		}
		b.tokens = &tokens{src: src}
	}
	return b, nil
}

// Close gives idle connections up.
func (b *Bucket) Close() error {
	if b.tokens != nil {
		b.tokens.wait()
	}
	b.client.CloseIdleConnections()
	return nil
}

// object returns the URL of an object. All of the key is one part of the path.
func (b *Bucket) object(key string) string { return b.objects + "/" + url.PathEscape(key) }

// checkKey is objstore.CheckKey, and refuses what the service would.
func checkKey(key string) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	if !utf8.ValidString(key) {
		return fmt.Errorf("objstore: key %q is not UTF-8", key)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum returns a CRC-32C as the API writes it: big endian, in base64.
func checksum(body []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, castagnoli)))
}

// attributes are the part of an object's description that is used here.
type attributes struct {
	Name         string `json:"name,omitempty"`
	CRC32C       string `json:"crc32c,omitempty"`
	Size         string `json:"size,omitempty"` // a number of 64 bits, for JavaScript's sake
	StorageClass string `json:"storageClass,omitempty"`
	ContentType  string `json:"contentType,omitempty"`
	Updated      string `json:"updated,omitempty"` // RFC 3339
}

// maxAnswer bounds answers other than objects; a page of a thousand keys of
// 1024 bytes is the largest.
const maxAnswer = 16 << 20

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	sum := checksum(body)
	meta, err := json.Marshal(attributes{CRC32C: sum, StorageClass: b.cfg.StorageClass, ContentType: "application/octet-stream"})
	if err != nil {
		return b.failed("put", key, err)
	}
	// A boundary that nobody can guess is not in the object.
	boundary := rand.Text()
	head := fmt.Appendf(nil, "--%s\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n%s\r\n--%s\r\nContent-Type: application/octet-stream\r\n\r\n", boundary, meta, boundary)
	tail := fmt.Appendf(nil, "\r\n--%s--\r\n", boundary)
	parts := func() io.ReadCloser {
		return io.NopCloser(io.MultiReader(bytes.NewReader(head), bytes.NewReader(body), bytes.NewReader(tail)))
	}
	q := url.Values{"uploadType": {"multipart"}, "name": {key}, "fields": {"name,size,crc32c"}}
	if b.cfg.KMSKeyName != "" {
		q.Set("kmsKeyName", b.cfg.KMSKeyName)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.upload+"?"+q.Encode(), parts())
	if err != nil {
		return b.failed("put", key, err)
	}
	req.ContentLength = int64(len(head) + len(body) + len(tail))
	// For a connection that the service closed while it was idle.
	req.GetBody = func() (io.ReadCloser, error) { return parts(), nil }
	req.Header.Set("Content-Type", "multipart/related; boundary="+boundary)
	var got attributes
	if err := b.call(req, &got); err != nil {
		return b.failed("put", key, err)
	}
	// What answers could be a proxy with a page of its own.
	if got.Name != key || got.Size != strconv.Itoa(len(body)) || got.CRC32C != sum {
		return b.failed("put", key, fmt.Errorf("the service stored %q with %q bytes and checksum %q, not %d and %q", remote.Text(got.Name), remote.Text(got.Size), remote.Text(got.CRC32C), len(body), sum))
	}
	return nil
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.object(key)+"?alt=media", nil)
	if err != nil {
		return nil, b.failed("get", key, err)
	}
	// Else the service unpacks objects that others stored as gzip, and their
	// size and checksum would not be those of the answer.
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := b.send(req)
	if err != nil {
		return nil, b.failed("get", key, err)
	}
	defer resp.Body.Close()
	body, err := remote.ReadBody(resp.Body, resp.ContentLength)
	if err != nil {
		return nil, b.failed("get", key, err)
	}
	if want := hashOf(resp.Header); want != "" && want != checksum(body) {
		return nil, b.failed("get", key, fmt.Errorf("%d bytes with checksum %s, stored were %s", len(body), checksum(body), remote.Text(want)))
	}
	return body, nil
}

// hashOf returns the CRC-32C among the hashes of an object, "" if there is none.
func hashOf(h http.Header) string {
	for _, line := range h.Values("X-Goog-Hash") {
		for one := range strings.SplitSeq(line, ",") {
			if sum, ok := strings.CutPrefix(strings.TrimSpace(one), "crc32c="); ok {
				return sum
			}
		}
	}
	return ""
}

// Stat implements objstore.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (objstore.Info, error) {
	if err := checkKey(key); err != nil {
		return objstore.Info{}, err
	}
	var got attributes
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.object(key)+"?fields=size,updated", nil)
	if err == nil {
		err = b.call(req, &got)
	}
	if err != nil {
		return objstore.Info{}, b.failed("stat", key, err)
	}
	size, err := strconv.ParseInt(got.Size, 10, 64)
	if err != nil || size < 0 {
		return objstore.Info{}, b.failed("stat", key, fmt.Errorf("the service says that its size is %q", remote.Text(got.Size)))
	}
	// Without a time, or with one that cannot be read, its age is not known.
	updated, _ := time.Parse(time.RFC3339, got.Updated)
	return objstore.Info{Size: size, Modified: updated}, nil
}

// page is an answer to a list request.
type page struct {
	Items    []attributes `json:"items"`
	Prefixes []string     `json:"prefixes"`
	Next     string       `json:"nextPageToken"`
}

// List implements objstore.Bucket.
func (b *Bucket) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	if err := objstore.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	q := url.Values{"prefix": {prefix}, "maxResults": {"1000"}, "fields": {"nextPageToken,prefixes,items(name)"}}
	if !recursive {
		q.Set("delimiter", "/")
	}
	var keys []string
	for {
		var p page
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.objects+"?"+q.Encode(), nil)
		if err == nil {
			err = b.call(req, &p)
		}
		if err != nil {
			return nil, b.failed("list", prefix, err)
		}
		for _, o := range p.Items {
			// Some tools leave an empty object for a folder.
			if !strings.HasSuffix(o.Name, "/") {
				keys = append(keys, o.Name)
			}
		}
		keys = append(keys, p.Prefixes...)
		if p.Next == "" {
			break
		}
		if p.Next == q.Get("pageToken") {
			return nil, b.failed("list", prefix, errors.New("the service gives the same page again"))
		}
		q.Set("pageToken", p.Next)
	}
	slices.Sort(keys)
	return keys, nil
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, b.object(key), nil)
	if err == nil {
		err = b.call(req, nil)
	}
	if err != nil {
		if err = b.failed("delete", key, err); objstore.IsNotFound(err) {
			return nil
		}
	}
	return err
}

// call sends req and reads its answer into out, which may be nil.
func (b *Bucket) call(req *http.Request, out any) error {
	resp, err := b.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := remote.ReadBody(io.LimitReader(resp.Body, maxAnswer+1), -1)
	switch {
	case err != nil:
		return err
	case len(body) > maxAnswer:
		return fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return &notJSON{err}
	}
	return nil
}

// send sends req with credentials. The answer is one of success.
func (b *Bucket) send(req *http.Request) (*http.Response, error) {
	if b.tokens != nil {
		t, err := b.tokens.get(req.Context())
		if err != nil {
			return nil, err
		}
		t.SetAuthHeader(req)
	}
	req.Header.Set("User-Agent", "loki-go")
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, remote.Cause(err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	// What cannot be read of it is not missed.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return nil, parseAnswer(resp.StatusCode, body)
}
