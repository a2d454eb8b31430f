package azure

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/internal/remote"
)

// answer is a refusal of the service
// (https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes).
// The SDK's own error is a page of text.
type answer struct {
	status  int
	code    string
	message string
}

func (a *answer) Error() string {
	s := fmt.Sprintf("%d %s", a.status, http.StatusText(a.status))
	if a.code != "" {
		s += ", " + a.code
	}
	if a.message != "" {
		s += ": " + a.message
	}
	return s
}

func parseAnswer(r *azcore.ResponseError) *answer {
	a := &answer{status: r.StatusCode, code: remote.Text(r.ErrorCode)}
	if r.RawResponse == nil || r.RawResponse.Body == nil {
		return a
	}
	body, err := runtime.Payload(r.RawResponse)
	if err != nil {
		return a // the status says enough
	}
	var x struct{ Message string }
	if xml.Unmarshal(body, &x) == nil {
		// The lines behind the first are numbers of the request.
		first, _, _ := strings.Cut(strings.TrimSpace(x.Message), "\n")
		a.message = remote.Text(first)
	} else if a.code == "" {
		a.message = remote.Text(string(body))
	}
	return a
}

// failed makes an objstore.Error of err.
func (b *Bucket) failed(op, key string, err error) error {
	var r *azcore.ResponseError
	if errors.As(err, &r) {
		err = parseAnswer(r)
	} else {
		err = remote.Cause(err)
	}
	e := &objstore.Error{Op: op, Key: b.cfg.Container + "/" + key, Err: err}
	e.Kind, e.Hint = b.explain(op, err)
	return e
}

func (b *Bucket) explain(op string, err error) (objstore.Kind, string) {
	var a *answer
	var t *tokenError
	switch {
	case errors.Is(err, errFolder):
		return objstore.NotFound, ""
	case errors.As(err, &a):
		return b.explainAnswer(op, a)
	case errors.As(err, &t):
		return explainToken(t)
	case strings.Contains(err.Error(), "unmarshalling type"): // the SDK has no type for it
		return objstore.Denied, "what answers is not Azure: correct storage.azure.endpoint"
	}
	return remote.Network(err, "storage.azure")
}

func (b *Bucket) explainAnswer(op string, a *answer) (objstore.Kind, string) {
	switch a.code {
	case "BlobNotFound", "ResourceNotFound":
		return objstore.NotFound, ""
	case "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled":
		return objstore.Denied, "create the container " + b.cfg.Container + " or correct storage.azure.container"
	case "AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation", "AuthorizationProtocolMismatch", "AuthorizationSourceIPMismatch",
		"AuthorizationServiceMismatch", "AuthorizationResourceTypeMismatch":
		return objstore.Denied, b.credentials()
	case "AuthorizationFailure": // the firewall's; emulators say it of bad keys
		return objstore.Denied, b.credentials() + ", or " + firewall
	case "AuthorizationPermissionMismatch", "InsufficientAccountPermissions":
		return objstore.Denied, b.permission(op)
	case "KeyBasedAuthenticationNotPermitted":
		return objstore.Denied, "allow shared keys for the account, or use an identity: leave storage.azure.account-key, sas-token and connection-string empty"
	case "AccountIsDisabled", "PublicAccessNotPermitted", "InvalidResourceName":
		return objstore.Denied, "correct storage.azure.account, storage.azure.container and storage.azure.endpoint"
	case "BlobImmutableDueToPolicy", "BlobArchived", "BlobBeingRehydrated":
		return objstore.Denied, "remove the container's immutability policies and rules that archive: index files and chunks are read, replaced and deleted"
	case "EncryptionScopeNotFound", "EncryptionScopeDisabled", "KeyVaultEncryptionKeyNotFound", "KeyVaultAccessTokenCannotBeAcquired":
		return objstore.Denied, "correct storage.azure.encryption-scope or its key"
	case "ServerBusy":
		return objstore.Throttled, ""
	case "Md5Mismatch", "OperationTimedOut", "InternalError", "AccountBeingCreated":
		return objstore.Transient, ""
	}
	switch {
	case a.status == http.StatusBadRequest && strings.Contains(strings.ToLower(a.message), "md5"):
		return objstore.Transient, "" // spoilt on its way
	case a.status == http.StatusNotFound:
		// The service itself says what is missing.
		return objstore.Denied, "correct storage.azure.endpoint"
	case a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable:
		return objstore.Throttled, ""
	case a.status == http.StatusRequestTimeout || a.status >= 500:
		return objstore.Transient, ""
	case a.status == http.StatusUnauthorized:
		return objstore.Denied, b.credentials()
	case a.status == http.StatusForbidden:
		return objstore.Denied, b.permission(op)
	case a.status < 400:
		return objstore.Denied, "correct storage.azure.endpoint"
	}
	return objstore.Permanent, ""
}

// credentials says what to mend when the service does not know who asks.
func (b *Bucket) credentials() string {
	switch {
	case b.cfg.ConnectionString != "":
		return "correct or renew storage.azure.connection-string, or set this machine's clock"
	case b.sas:
		return "renew storage.azure.sas-token, or set this machine's clock"
	case b.identity != nil:
		return "check the account's tenant and the " + b.identity.kind
	}
	return "correct storage.azure.account-key, or set this machine's clock"
}

// permission says what to mend when the service knows who asks.
func (b *Bucket) permission(op string) string {
	switch {
	case b.identity != nil:
		return "give the " + b.identity.kind + " the role Storage Blob Data Contributor on the container, or " + firewall
	case b.sas:
		return "allow " + permissions[op] + " in the SAS token, or " + firewall
	}
	return firewall
}

const firewall = "allow this machine's network in the account's firewall"

// permissions that an operation needs.
var permissions = map[string]string{"get": "read", "stat": "read", "put": "write", "delete": "delete", "list": "list"}

func explainToken(t *tokenError) (objstore.Kind, string) {
	const others = "set storage.azure.account-key, sas-token or connection-string"
	var op *net.OpError
	if t.kind == byMachine {
		switch {
		case errors.As(t.err, &op) && op.Op == "dial":
			return objstore.Denied, "this machine has no managed identity: " + others
		case t.status == http.StatusBadRequest || t.status == http.StatusForbidden:
			return objstore.Denied, "give this machine a managed identity, correct storage.azure.client-id, or " + others
		case t.status == http.StatusOK:
			return objstore.Denied, "something else answers in the place of the managed identity: " + others
		}
		return objstore.Transient, ""
	}
	switch {
	case errors.Is(t.err, fs.ErrNotExist) || errors.Is(t.err, fs.ErrPermission):
		return objstore.Denied, "let Kubernetes mount the token of the service account"
	case t.status == 0 || t.status == http.StatusTooManyRequests || t.status == http.StatusRequestTimeout || t.status >= 500:
		return objstore.Transient, ""
	case t.kind == byWorkload:
		return objstore.Denied, "correct the federated credential of the application, AZURE_TENANT_ID and AZURE_CLIENT_ID"
	}
	return objstore.Denied, "correct storage.azure.tenant-id, client-id and client-secret"
}
