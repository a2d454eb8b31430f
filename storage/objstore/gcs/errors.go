package gcs

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"cloud.google.com/go/compute/metadata"
	"golang.org/x/oauth2"

	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/internal/remote"
)

// answer is a refusal of the service
// (https://cloud.google.com/storage/docs/json_api/v1/status-codes).
type answer struct {
	status  int
	reason  string
	message string
}

func (a *answer) Error() string {
	s := fmt.Sprintf("%d %s", a.status, http.StatusText(a.status))
	if a.reason != "" {
		s += ", " + a.reason
	}
	if a.message != "" {
		s += ": " + a.message
	}
	return s
}

// parseAnswer reads the JSON of an error. Answers to downloads, and those of
// proxies, are text.
func parseAnswer(status int, body []byte) *answer {
	var x struct {
		Error struct {
			Message string
			Errors  []struct{ Reason string }
		}
	}
	a := &answer{status: status}
	if json.Unmarshal(body, &x) != nil || x.Error.Message == "" {
		a.message = remote.Text(string(body))
		return a
	}
	a.message = remote.Text(x.Error.Message)
	if len(x.Error.Errors) > 0 {
		a.reason = remote.Text(x.Error.Errors[0].Reason)
	}
	return a
}

// notJSON says that a success is not one of the service.
type notJSON struct{ err error }

func (n *notJSON) Error() string { return "the answer is not one of Cloud Storage: " + n.err.Error() }
func (n *notJSON) Unwrap() error { return n.err }

// failed makes an objstore.Error of err.
func (b *Bucket) failed(op, key string, err error) error {
	e := &objstore.Error{Op: op, Key: b.cfg.Bucket + "/" + key, Err: err}
	e.Kind, e.Hint = b.explain(op, err)
	return e
}

func (b *Bucket) explain(op string, err error) (objstore.Kind, string) {
	var a *answer
	var t *tokenError
	var n *notJSON
	switch {
	case errors.As(err, &a):
		return b.explainAnswer(op, a)
	case errors.As(err, &t):
		return explainToken(t)
	case errors.As(err, &n):
		return objstore.Denied, "correct storage.gcs.endpoint"
	}
	return remote.Network(err, "storage.gcs")
}

func (b *Bucket) explainAnswer(op string, a *answer) (objstore.Kind, string) {
	text := strings.ToLower(a.message)
	has := func(s string) bool { return strings.Contains(text, s) }
	switch a.status {
	case http.StatusNotFound:
		// Only the words tell a bucket from an object.
		if op == "list" || op == "put" || has("bucket does not exist") {
			return objstore.Denied, "create the bucket " + b.cfg.Bucket + " or correct storage.gcs.bucket and storage.gcs.endpoint"
		}
		return objstore.NotFound, ""
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return objstore.Throttled, ""
	case http.StatusUnauthorized:
		return objstore.Denied, b.credentials()
	case http.StatusForbidden:
		switch {
		case a.reason == "rateLimitExceeded" || a.reason == "userRateLimitExceeded":
			return objstore.Throttled, ""
		case a.reason == "accountDisabled" || has("billing"):
			return objstore.Denied, "enable billing for the bucket's project"
		case a.reason == "retentionPolicyNotMet" || has("retention") || has("hold"):
			return objstore.Denied, "remove the bucket's retention policy and holds: index files and chunks are replaced and deleted"
		case has("kms"):
			return objstore.Denied, "correct storage.gcs.kms-key-name, or let Cloud Storage's service agent use the key"
		case b.tokens == nil:
			return objstore.Denied, b.credentials()
		}
		return objstore.Denied, "give these credentials the role Storage Object User on the bucket (" + permissions[op] + ")"
	case http.StatusBadRequest:
		switch {
		case has("crc32c") || has("checksum") || has("md5"):
			return objstore.Transient, "" // spoilt on its way
		case has("kms"):
			return objstore.Denied, "correct storage.gcs.kms-key-name; the key must be where the bucket is"
		}
		return objstore.Permanent, ""
	case http.StatusRequestTimeout:
		return objstore.Transient, ""
	}
	switch {
	case a.status >= 500:
		return objstore.Transient, ""
	case a.status < 400:
		return objstore.Denied, "correct storage.gcs.endpoint"
	}
	return objstore.Permanent, ""
}

// permissions that an operation needs. To replace an object is to delete it.
var permissions = map[string]string{
	"get": "storage.objects.get", "stat": "storage.objects.get", "put": "storage.objects.create and storage.objects.delete",
	"delete": "storage.objects.delete", "list": "storage.objects.list",
}

func (b *Bucket) credentials() string {
	switch {
	case b.tokens == nil:
		return "the service wants credentials: set storage.gcs.no-auth=false"
	case b.cfg.CredentialsFile != "":
		return "correct storage.gcs.credentials-file"
	}
	return "correct the application default credentials, or set storage.gcs.credentials-file"
}

// tokenError says that there is no token to send.
type tokenError struct {
	file string // "": the application default credentials
	err  error
}

// Error leaves out what else the issuer says: it is many lines of JSON.
func (t *tokenError) Error() string {
	var r *oauth2.RetrieveError
	text := t.err.Error()
	if errors.As(t.err, &r) {
		text = string(r.Body)
		// Only some sources fill r.ErrorCode.
		var x struct {
			Error       string
			Description string `json:"error_description"`
		}
		if json.Unmarshal(r.Body, &x) == nil && x.Error != "" {
			text = x.Error + " " + x.Description
		}
		if r.Response != nil {
			text = fmt.Sprintf("%d %s", r.Response.StatusCode, text)
		}
	}
	return "no access token: " + remote.Text(text)
}

func (t *tokenError) Unwrap() error { return t.err }

func explainToken(t *tokenError) (objstore.Kind, string) {
	where := "the application default credentials"
	if t.file != "" {
		where = "storage.gcs.credentials-file"
	}
	status := 0
	var r *oauth2.RetrieveError
	var m *metadata.Error
	var none metadata.NotDefinedError
	var network net.Error
	switch {
	case errors.As(t.err, &none):
		return objstore.Denied, "give this machine a service account, or set storage.gcs.credentials-file"
	case errors.As(t.err, &r) && r.Response != nil:
		status = r.Response.StatusCode
	case errors.As(t.err, &m):
		status = m.Code
	case errors.As(t.err, &network) || strings.Contains(t.err.Error(), "cannot fetch token"): // some say it in words only
		return objstore.Transient, "is the issuer of access tokens within reach?"
	}
	if status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= 500 {
		return objstore.Transient, ""
	}
	return objstore.Denied, "renew " + where + ", or set this machine's clock"
}
