// Package azure stores objects in Azure Blob Storage, as block blobs of a
// container.
//
// A Bucket sends one request for each call (List one for each thousand keys)
// and does not try again: objstore.Resilient does, with deadlines, for all
// stores alike. Uploads carry an MD5 that the service checks before it takes an
// object; downloads are checked against the one that it kept. Chunks are named
// as Loki's client for Azure names them.
package azure

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/internal/remote"
)

// Config names a container and says how to reach it. Without a key, a SAS token
// and a connection string, an identity is used.
type Config struct {
	Account          string         `yaml:"account" help:"name of the storage account"`
	Container        string         `yaml:"container" help:"name of the container"`
	Endpoint         string         `yaml:"endpoint" help:"URL of the account's blob service; empty: https://ACCOUNT.blob.core.windows.net"`
	AccountKey       string         `yaml:"account-key" secret:"true" help:"key of the account; with neither this nor sas-token nor connection-string an identity is used: a client secret, a Kubernetes workload identity, or the machine's managed identity"`
	SASToken         string         `yaml:"sas-token" secret:"true" help:"shared access signature for the container, with the permissions read, write, delete and list"`
	ConnectionString string         `yaml:"connection-string" secret:"true" help:"connection string, which stands for account, endpoint, and account-key or sas-token"`
	TenantID         string         `yaml:"tenant-id" help:"Entra tenant of the identity; empty: AZURE_TENANT_ID"`
	ClientID         string         `yaml:"client-id" help:"application of the identity, or the managed identity if the machine has several; empty: AZURE_CLIENT_ID"`
	ClientSecret     string         `yaml:"client-secret" secret:"true" help:"secret of the application; empty: AZURE_CLIENT_SECRET"`
	ChunkDelimiter   string         `yaml:"chunk-delimiter" help:"what stands for : in the names of chunks: -, _ or :; must be Loki's chunk_delimiter, and must not change"`
	AccessTier       string         `yaml:"access-tier" help:"access tier of objects: Hot, Cool or Cold; empty: the account's default"`
	EncryptionScope  string         `yaml:"encryption-scope" help:"encryption scope of objects; empty: the container's default"`
	TLS              tlsconf.Client `yaml:"tls"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{ChunkDelimiter: "-"} }

var (
	accountName   = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	containerName = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9]){2,62}$`)
	tiers         = []string{"Hot", "Cool", "Cold"}
)

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case c.Container == "":
		bad("container: must be set")
	case len(c.Container) > 63 || !containerName.MatchString(c.Container):
		bad("container: %q is not 3 to 63 lower case letters, digits, and single -", c.Container)
	}
	if c.ConnectionString != "" {
		if c.Account != "" || c.Endpoint != "" || c.AccountKey != "" || c.SASToken != "" {
			bad("connection-string: does not go with account, endpoint, account-key and sas-token")
		} else if _, err := parseConnection(c.ConnectionString); err != nil {
			bad("connection-string: %w", err)
		}
	} else {
		c.validateAccount(bad)
	}
	switch c.ChunkDelimiter {
	case "-", "_", ":":
	default:
		bad("chunk-delimiter: %q is not -, _ or :", c.ChunkDelimiter)
	}
	if c.AccessTier != "" && !slices.Contains(tiers, c.AccessTier) {
		bad("access-tier: %q is not %s", c.AccessTier, strings.Join(tiers, ", "))
	}
	for _, err := range c.TLS.Validate() {
		bad("tls.%w", err)
	}
	return errs
}

func (c Config) validateAccount(bad func(string, ...any)) {
	switch {
	case c.Account == "":
		bad("account: must be set")
	case !accountName.MatchString(c.Account):
		bad("account: %q is not 3 to 24 lower case letters and digits", c.Account)
	}
	if c.AccountKey != "" && c.SASToken != "" {
		bad("sas-token: does not go with account-key")
	}
	if _, err := base64.StdEncoding.DecodeString(c.AccountKey); err != nil {
		bad("account-key: is not in base64")
	}
	if c.SASToken != "" {
		if q, err := url.ParseQuery(strings.TrimPrefix(c.SASToken, "?")); err != nil || q.Get("sig") == "" {
			bad("sas-token: is not one, as sv=...&sig=...")
		}
	}
	if c.ClientSecret != "" && (c.ClientID == "" || c.TenantID == "") {
		bad("client-secret: needs client-id and tenant-id")
	}
	if c.Endpoint != "" {
		u, err := remote.Endpoint(c.Endpoint)
		if err != nil {
			bad("endpoint: %w", err)
		} else if u.Scheme == "http" && c.AccountKey == "" && c.SASToken == "" {
			bad("endpoint: an identity needs https")
		}
	}
}

// account is where the container is and how to get in.
type account struct {
	endpoint  string
	name, key string
	sas       string
}

// parseConnection reads NAME=VALUE;NAME=VALUE
// (https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string).
func parseConnection(s string) (account, error) {
	f := map[string]string{}
	for part := range strings.SplitSeq(s, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return account{}, errors.New("is not NAME=VALUE;NAME=VALUE")
		}
		f[name] = value
	}
	a := account{endpoint: f["BlobEndpoint"], name: f["AccountName"], key: f["AccountKey"], sas: f["SharedAccessSignature"]}
	if a.endpoint == "" {
		if !accountName.MatchString(a.name) {
			return account{}, errors.New("has neither AccountName nor BlobEndpoint")
		}
		scheme, suffix := f["DefaultEndpointsProtocol"], f["EndpointSuffix"]
		if scheme == "" {
			scheme = "https"
		}
		if suffix == "" {
			suffix = "core.windows.net"
		}
		a.endpoint = scheme + "://" + a.name + ".blob." + suffix
	}
	u, err := remote.Endpoint(a.endpoint)
	if err != nil {
		return account{}, fmt.Errorf("BlobEndpoint: %w", err)
	}
	a.endpoint = u.String()
	if a.key != "" && a.name != "" {
		if _, err := base64.StdEncoding.DecodeString(a.key); err != nil {
			return account{}, errors.New("AccountKey is not in base64")
		}
		a.sas = ""
		return a, nil
	}
	if a.key = ""; a.sas == "" {
		return account{}, errors.New("has neither AccountName and AccountKey nor SharedAccessSignature")
	}
	return a, nil
}

// account returns what the settings say, which must be valid.
func (c Config) account() (account, error) {
	if c.ConnectionString != "" {
		return parseConnection(c.ConnectionString)
	}
	a := account{name: c.Account, key: c.AccountKey, sas: strings.TrimPrefix(c.SASToken, "?")}
	if c.Endpoint == "" {
		a.endpoint = "https://" + c.Account + ".blob.core.windows.net"
		return a, nil
	}
	u, err := remote.Endpoint(c.Endpoint)
	if err != nil {
		return a, fmt.Errorf("endpoint: %w", err)
	}
	a.endpoint = u.String()
	return a, nil
}

// Bucket is an objstore.Bucket.
type Bucket struct {
	cfg      Config
	c        *container.Client
	client   *http.Client
	identity *identity // nil: a key or a SAS token is used
	sas      bool
	names    names
}

var _ objstore.Bucket = (*Bucket)(nil)

// Open prepares the client. It sends no request; objstore.Check does.
func Open(_ context.Context, cfg Config) (*Bucket, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	a, err := cfg.account()
	if err != nil {
		return nil, err
	}
	client, err := remote.Client(cfg.TLS)
	if err != nil {
		return nil, err
	}
	b := &Bucket{cfg: cfg, client: client, sas: a.sas != "", names: names{cfg.ChunkDelimiter}}
	o := &container.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: bounded{client},
		Retry:     policy.RetryOptions{MaxRetries: -1}, // objstore.Resilient tries again
		Telemetry: policy.TelemetryOptions{ApplicationID: "loki-go"},
	}}
	at := strings.TrimSuffix(a.endpoint, "/") + "/" + cfg.Container
	switch {
	case a.key != "":
		var key *container.SharedKeyCredential
		if key, err = container.NewSharedKeyCredential(a.name, a.key); err == nil {
			b.c, err = container.NewClientWithSharedKeyCredential(at, key, o)
		}
	case a.sas != "":
		b.c, err = container.NewClientWithNoCredential(at+"?"+a.sas, o)
	default:
		b.identity = newIdentity(cfg)
		b.c, err = container.NewClient(at, b.identity, o)
	}
	if err != nil {
		return nil, fmt.Errorf("prepare the client: %w", err)
	}
	return b, nil
}

// Close gives idle connections up.
func (b *Bucket) Close() error {
	b.client.CloseIdleConnections()
	return nil
}

// maxAnswer bounds answers other than objects, which the SDK reads whole; a
// page of a thousand names of 1024 characters is the largest.
const maxAnswer = 16 << 20

// bounded sends requests for the SDK.
type bounded struct{ c *http.Client }

// Do bounds what comes back unless it is an object.
func (b bounded) Do(req *http.Request) (*http.Response, error) {
	resp, err := b.c.Do(req)
	if err != nil {
		return nil, remote.Cause(err)
	}
	if resp.StatusCode/100 != 2 || req.Method != http.MethodGet || req.URL.Query().Get("comp") != "" {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	}
	return resp, nil
}

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte) error {
	name, err := b.names.blob(key)
	if err != nil {
		return err
	}
	sum := md5.Sum(body)
	o := &blockblob.UploadOptions{
		TransactionalValidation: blob.TransferValidationTypeMD5(sum[:]),
		HTTPHeaders:             &blob.HTTPHeaders{BlobContentType: to.Ptr("application/octet-stream")},
	}
	if b.cfg.AccessTier != "" {
		o.Tier = to.Ptr(blob.AccessTier(b.cfg.AccessTier))
	}
	if b.cfg.EncryptionScope != "" {
		o.CPKScopeInfo = &blob.CPKScopeInfo{EncryptionScope: &b.cfg.EncryptionScope}
	}
	resp, err := b.c.NewBlockBlobClient(name).Upload(ctx, streaming.NopCloser(bytes.NewReader(body)), o)
	if err != nil {
		return b.failed("put", key, err)
	}
	if len(resp.ContentMD5) > 0 && !bytes.Equal(resp.ContentMD5, sum[:]) {
		return b.failed("put", key, fmt.Errorf("the service stored %x, not %x", resp.ContentMD5, sum))
	}
	return nil
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	name, err := b.names.blob(key)
	if err != nil {
		return nil, err
	}
	resp, err := b.c.NewBlobClient(name).DownloadStream(ctx, nil)
	if err != nil {
		return nil, b.failed("get", key, err)
	}
	defer resp.Body.Close()
	if folder(resp.Metadata) {
		return nil, b.failed("get", key, errFolder)
	}
	announced := int64(-1)
	if resp.ContentLength != nil {
		announced = *resp.ContentLength
	}
	body, err := remote.ReadBody(resp.Body, announced)
	if err != nil {
		return nil, b.failed("get", key, err)
	}
	// Objects that others wrote in blocks have no checksum.
	if sum := md5.Sum(body); len(resp.ContentMD5) > 0 && !bytes.Equal(resp.ContentMD5, sum[:]) {
		return nil, b.failed("get", key, fmt.Errorf("%d bytes with MD5 %x, stored were %x", len(body), sum, resp.ContentMD5))
	}
	return body, nil
}

// errFolder is about an account with a hierarchical namespace, where folders
// are blobs of a kind.
var errFolder = errors.New("it is a folder")

func folder(metadata map[string]*string) bool {
	for name, v := range metadata {
		if strings.EqualFold(name, "hdi_isfolder") && v != nil && strings.EqualFold(*v, "true") {
			return true
		}
	}
	return false
}

// Stat implements objstore.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (objstore.Info, error) {
	name, err := b.names.blob(key)
	if err != nil {
		return objstore.Info{}, err
	}
	p, err := b.c.NewBlobClient(name).GetProperties(ctx, nil)
	switch {
	case err != nil:
	case folder(p.Metadata):
		err = errFolder
	case p.ContentLength == nil:
		err = errors.New("the service does not say its size")
	default:
		info := objstore.Info{Size: *p.ContentLength}
		if p.LastModified != nil {
			info.Modified = *p.LastModified
		}
		return info, nil
	}
	return objstore.Info{}, b.failed("stat", key, err)
}

// List implements objstore.Bucket.
func (b *Bucket) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	if err := objstore.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	list := b.listAll
	if !recursive {
		list = b.listFolder
	}
	var keys []string
	err := list(ctx, b.names.prefix(prefix), func(name string) {
		if key := b.names.key(name); strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	})
	if err != nil {
		return nil, b.failed("list", prefix, err)
	}
	slices.Sort(keys)
	return keys, nil
}

const pageSize = 1000

func (b *Bucket) listAll(ctx context.Context, prefix string, found func(string)) error {
	p := b.c.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix, MaxResults: to.Ptr[int32](pageSize)})
	for last := ""; p.More(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			return err
		}
		if page.Segment != nil {
			addBlobs(page.Segment.BlobItems, found)
		}
		if last, err = turn(last, page.NextMarker); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bucket) listFolder(ctx context.Context, prefix string, found func(string)) error {
	p := b.c.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{Prefix: &prefix, MaxResults: to.Ptr[int32](pageSize)})
	for last := ""; p.More(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			return err
		}
		if page.Segment != nil {
			addBlobs(page.Segment.BlobItems, found)
			for _, f := range page.Segment.BlobPrefixes {
				if f.Name != nil {
					found(*f.Name)
				}
			}
		}
		if last, err = turn(last, page.NextMarker); err != nil {
			return err
		}
	}
	return nil
}

// turn returns the marker of the next page, which must be another one.
func turn(last string, next *string) (string, error) {
	if next == nil || *next == "" {
		return "", nil
	}
	if *next == last {
		return "", errors.New("the service gives the same page again")
	}
	return *next, nil
}

func addBlobs(items []*container.BlobItem, found func(string)) {
	for _, i := range items {
		isFolder := i.Properties != nil && i.Properties.ResourceType != nil && *i.Properties.ResourceType == "directory"
		// Some tools leave an empty object for a folder.
		if i.Name != nil && !isFolder && !strings.HasSuffix(*i.Name, "/") {
			found(*i.Name)
		}
	}
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	name, err := b.names.blob(key)
	if err != nil {
		return err
	}
	_, err = b.c.NewBlobClient(name).Delete(ctx, &blob.DeleteOptions{DeleteSnapshots: to.Ptr(blob.DeleteSnapshotsOptionTypeInclude)})
	if err != nil {
		if err = b.failed("delete", key, err); objstore.IsNotFound(err) {
			return nil
		}
	}
	return err
}
