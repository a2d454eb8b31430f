package s3

import (
	"crypto/x509"
	"errors"
	"net"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/loki-go/loki-go/storage/objstore"
)

// classify turns what the SDK says into an objstore.Error.
func (b *Bucket) classify(op, key string, err error) error {
	if err == nil {
		return nil
	}
	e := &objstore.Error{Op: op, Key: b.cfg.Bucket + "/" + key, Err: err}
	e.Kind, e.Hint = b.explain(op, err)
	return e
}

func (b *Bucket) explain(op string, err error) (objstore.Kind, string) {
	code, status := "", 0
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) && resp.Response != nil {
		status = resp.HTTPStatusCode()
	}
	switch code {
	case "NoSuchBucket":
		return objstore.Denied, "create the bucket " + b.cfg.Bucket + " or correct storage.s3.bucket and storage.s3.endpoint"
	case "InvalidAccessKeyId", "XAdminUserNotFound": // versitygw has its own name for it
		return objstore.Denied, "correct storage.s3.access-key"
	case "SignatureDoesNotMatch":
		return objstore.Denied, "correct storage.s3.secret-key"
	case "ExpiredToken", "InvalidToken":
		return objstore.Denied, "renew the credentials"
	case "RequestTimeTooSkewed":
		return objstore.Denied, "set this machine's clock"
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException":
		return objstore.Denied, "correct storage.s3.region, or storage.s3.endpoint"
	case "AccessDenied":
		return objstore.Denied, "allow " + permissions[op] + " on the bucket to these credentials"
	case "KMS.DisabledException", "KMS.NotFoundException", "KMSAccessDenied":
		return objstore.Denied, "correct storage.s3.kms-key-id or the key's policy"
	case "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "TooManyRequestsException":
		return objstore.Throttled, ""
	case "RequestTimeout", "InternalError", "ServiceUnavailable", "BadDigest", "IncompleteBody", "XAmzContentChecksumMismatch", "OperationAborted":
		return objstore.Transient, ""
	case "NoSuchKey", "NotFound":
		return objstore.NotFound, ""
	}
	switch {
	case status == http.StatusNotFound && op == "list":
		return objstore.Denied, "correct storage.s3.bucket and storage.s3.endpoint"
	case status == http.StatusNotFound:
		return objstore.NotFound, ""
	case status == http.StatusMovedPermanently || status == http.StatusTemporaryRedirect:
		return objstore.Denied, "correct storage.s3.region, or storage.s3.endpoint"
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return objstore.Denied, "check the credentials and that they allow " + permissions[op]
	case status == http.StatusTooManyRequests:
		return objstore.Throttled, ""
	case status == http.StatusRequestTimeout || status >= 500:
		return objstore.Transient, ""
	case status >= 300:
		return objstore.Permanent, ""
	}
	return b.network(err)
}

// permissions that an operation needs.
var permissions = map[string]string{
	"get": "s3:GetObject", "stat": "s3:GetObject", "put": "s3:PutObject", "delete": "s3:DeleteObject", "list": "s3:ListBucket",
}

// network explains errors that come without an answer of the service.
func (b *Bucket) network(err error) (objstore.Kind, string) {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var dns *net.DNSError
	switch {
	case errors.As(err, &unknown):
		return objstore.Denied, "name the service's CA in storage.s3.tls.ca-file"
	case errors.As(err, &host):
		return objstore.Denied, "set storage.s3.path-style, or correct storage.s3.endpoint or storage.s3.tls.server-name"
	case errors.As(err, &dns):
		return objstore.Transient, "is storage.s3.endpoint right? Most services other than AWS need storage.s3.path-style=true"
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return objstore.Transient, "does a service listen at storage.s3.endpoint?"
	}
	// Without an answer the request may have been cut short anywhere; what the
	// SDK refuses to send is not of this kind, but trying it again does no harm.
	return objstore.Transient, ""
}
