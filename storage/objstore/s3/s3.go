// Package s3 stores objects in S3 and in what speaks its API: MinIO, Ceph,
// versitygw and others.
//
// A Bucket sends one request for each call (List one for each thousand keys)
// and does not try again: objstore.Resilient does, with deadlines, for all
// stores alike. Uploads carry a CRC32 that the service checks before it takes
// an object; downloads are checked against the one that it kept.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/internal/remote"
)

// Config names a bucket and says how to reach it.
type Config struct {
	Endpoint     string         `yaml:"endpoint" help:"URL of the service, or HOST:PORT for https; empty: AWS"`
	Region       string         `yaml:"region" help:"region of the bucket"`
	Bucket       string         `yaml:"bucket" help:"name of the bucket"`
	AccessKey    string         `yaml:"access-key" help:"access key id; empty: what the environment, the shared files, or the instance's role provide"`
	SecretKey    string         `yaml:"secret-key" secret:"true" help:"secret access key"`
	SessionToken string         `yaml:"session-token" secret:"true" help:"token of temporary credentials"`
	PathStyle    bool           `yaml:"path-style" help:"put the bucket in the path of URLs, not in the host name"`
	SSE          string         `yaml:"sse" help:"encryption at rest: none (what the bucket has by default), s3 or kms"`
	KMSKeyID     string         `yaml:"kms-key-id" help:"key for sse=kms; empty: the account's own"`
	StorageClass string         `yaml:"storage-class" help:"storage class of objects, as STANDARD_IA; empty: the bucket's default"`
	TLS          tlsconf.Client `yaml:"tls"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{Region: "us-east-1", SSE: "none"} }

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Bucket == "" {
		bad("bucket: must be set")
	}
	if c.Region == "" {
		bad("region: must be set; services other than AWS take any, us-east-1 for one")
	}
	if (c.AccessKey == "") != (c.SecretKey == "") {
		bad("access-key and secret-key: set both or neither")
	}
	if c.SessionToken != "" && c.AccessKey == "" {
		bad("session-token: needs access-key and secret-key")
	}
	switch c.SSE {
	case "none", "s3", "kms":
	default:
		bad("sse: %q is not none, s3 or kms", c.SSE)
	}
	if c.KMSKeyID != "" && c.SSE != "kms" {
		bad("kms-key-id: needs sse=kms")
	}
	if c.StorageClass != "" && !slices.Contains(types.StorageClass("").Values(), types.StorageClass(c.StorageClass)) {
		bad("storage-class: S3 has no class %q", c.StorageClass)
	}
	if _, err := c.endpoint(); err != nil {
		bad("endpoint: %w", err)
	}
	for _, err := range c.TLS.Validate() {
		bad("tls.%w", err)
	}
	return errs
}

// endpoint returns the URL of the service, "" for AWS.
func (c Config) endpoint() (string, error) {
	if c.Endpoint == "" {
		return "", nil
	}
	u, err := remote.Endpoint(c.Endpoint)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}

// Bucket is an objstore.Bucket.
type Bucket struct {
	c      *s3.Client
	cfg    Config
	client *http.Client
}

var _ objstore.Bucket = (*Bucket)(nil)

// Open prepares the client. It sends no request to the bucket; objstore.Check
// does.
func Open(ctx context.Context, cfg Config) (*Bucket, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	tlsCfg, err := cfg.TLS.Config()
	if err != nil {
		return nil, fmt.Errorf("tls.%w", err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = tlsCfg
	transport.MaxIdleConnsPerHost = 64
	transport.IdleConnTimeout = 30 * time.Second // before services close them
	transport.DisableCompression = true
	client := &http.Client{Transport: remote.ByProgress(transport)}
	o := s3.Options{
		Region: cfg.Region, UsePathStyle: cfg.PathStyle, HTTPClient: client, Retryer: aws.NopRetryer{},
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
		// Objects that others wrote may have no checksum.
		DisableLogOutputChecksumValidationSkipped: true,
	}
	if o.Credentials, err = provider(ctx, cfg); err != nil {
		return nil, err
	}
	if e, _ := cfg.endpoint(); e != "" {
		o.BaseEndpoint = &e
	}
	return &Bucket{c: s3.New(o), cfg: cfg, client: client}, nil
}

// provider returns the credentials of cfg, or of AWS's default chain.
func provider(ctx context.Context, cfg Config) (aws.CredentialsProvider, error) {
	if cfg.AccessKey != "" {
		return credentials.NewStaticCredentialsProvider(cfg.AccessKey, cfg.SecretKey, cfg.SessionToken), nil
	}
	loaded, err := config.LoadDefaultConfig(ctx, config.WithRegion(cfg.Region))
	if err != nil {
		return nil, fmt.Errorf("load the environment's AWS configuration: %w", err)
	}
	return loaded.Credentials, nil
}

// Close gives idle connections up.
func (b *Bucket) Close() error {
	b.client.CloseIdleConnections()
	return nil
}

// Put implements objstore.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body []byte) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	in := &s3.PutObjectInput{
		Bucket: &b.cfg.Bucket, Key: &key, Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))),
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc32, StorageClass: types.StorageClass(b.cfg.StorageClass),
	}
	switch b.cfg.SSE {
	case "s3":
		in.ServerSideEncryption = types.ServerSideEncryptionAes256
	case "kms":
		in.ServerSideEncryption = types.ServerSideEncryptionAwsKms
		if b.cfg.KMSKeyID != "" {
			in.SSEKMSKeyId = &b.cfg.KMSKeyID
		}
	}
	_, err := b.c.PutObject(ctx, in)
	return b.classify("put", key, err)
}

// Get implements objstore.Bucket.
func (b *Bucket) Get(ctx context.Context, key string) ([]byte, error) {
	if err := objstore.CheckKey(key); err != nil {
		return nil, err
	}
	out, err := b.c.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.cfg.Bucket, Key: &key, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return nil, b.classify("get", key, err)
	}
	defer out.Body.Close()
	announced := int64(-1)
	if out.ContentLength != nil {
		announced = *out.ContentLength
	}
	body, err := remote.ReadBody(out.Body, announced)
	if err != nil {
		return nil, &objstore.Error{Op: "get", Key: key, Kind: objstore.Transient, Err: err}
	}
	return body, nil
}

// Stat implements objstore.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (objstore.Info, error) {
	if err := objstore.CheckKey(key); err != nil {
		return objstore.Info{}, err
	}
	out, err := b.c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.cfg.Bucket, Key: &key})
	if err != nil {
		return objstore.Info{}, b.classify("stat", key, err)
	}
	return objstore.Info{Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified)}, nil
}

// List implements objstore.Bucket.
func (b *Bucket) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	if err := objstore.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	in := &s3.ListObjectsV2Input{Bucket: &b.cfg.Bucket, Prefix: &prefix}
	if !recursive {
		in.Delimiter = aws.String("/")
	}
	var keys []string
	for p := s3.NewListObjectsV2Paginator(b.c, in); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, b.classify("list", prefix, err)
		}
		for _, o := range page.Contents {
			// Some tools leave an empty object for a folder.
			if k := aws.ToString(o.Key); !strings.HasSuffix(k, "/") {
				keys = append(keys, k)
			}
		}
		for _, f := range page.CommonPrefixes {
			keys = append(keys, aws.ToString(f.Prefix))
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// Delete implements objstore.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	_, err := b.c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.cfg.Bucket, Key: &key})
	if err = b.classify("delete", key, err); objstore.IsNotFound(err) {
		return nil
	}
	return err
}
