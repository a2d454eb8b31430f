package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/loki-go/loki-go/storage/objstore/internal/remote"
)

// identity gets access tokens for the storage service from Entra, or from the
// machine. It keeps none: the SDK does.
//
//   - with a client secret: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
//   - with a token that Kubernetes puts into a file, in the secret's place: the same page
//   - of the machine: https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
type identity struct {
	kind                    string // for messages
	tenant, client, secret  string
	tokenFile               string
	authority, instanceHost string // URLs
	http                    *http.Client
}

const (
	byClientSecret = "client secret"
	byWorkload     = "workload identity"
	byMachine      = "managed identity"
)

// How long a request for a token may take, and a connection to the machine's
// service, which is on the same host or is not there.
const (
	tokenTime = 10 * time.Second
	dialTime  = 3 * time.Second
)

func newIdentity(c Config) *identity {
	or := func(setting, env, otherwise string) string {
		for _, v := range []string{setting, os.Getenv(env)} {
			if v != "" {
				return v
			}
		}
		return otherwise
	}
	i := &identity{
		tenant: or(c.TenantID, "AZURE_TENANT_ID", ""), client: or(c.ClientID, "AZURE_CLIENT_ID", ""), secret: or(c.ClientSecret, "AZURE_CLIENT_SECRET", ""),
		tokenFile: os.Getenv("AZURE_FEDERATED_TOKEN_FILE"),
		authority: or("", "AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com"), instanceHost: "http://169.254.169.254",
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true // the next request is an hour off
	switch {
	case i.tenant != "" && i.client != "" && i.secret != "":
		i.kind = byClientSecret
	case i.tenant != "" && i.client != "" && i.tokenFile != "":
		i.kind = byWorkload
	default:
		i.kind = byMachine
		t.Proxy = nil // the address is the machine's own
		t.DialContext = (&net.Dialer{Timeout: dialTime}).DialContext
	}
	i.http = &http.Client{Transport: t, Timeout: tokenTime}
	return i
}

var _ azcore.TokenCredential = (*identity)(nil)

// GetToken implements azcore.TokenCredential.
func (i *identity) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if len(o.Scopes) != 1 {
		return azcore.AccessToken{}, i.failed(0, fmt.Errorf("%d scopes", len(o.Scopes)))
	}
	req, err := i.request(ctx, o.Scopes[0])
	if err != nil {
		return azcore.AccessToken{}, i.failed(0, err)
	}
	now := time.Now()
	resp, err := i.http.Do(req)
	if err != nil {
		return azcore.AccessToken{}, i.failed(0, remote.Cause(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return azcore.AccessToken{}, i.failed(0, err)
	}
	var x struct {
		Token       string      `json:"access_token"`
		ExpiresIn   json.Number `json:"expires_in"` // seconds; the machine's service quotes them
		Error       string      `json:"error"`
		Description string      `json:"error_description"`
	}
	err = json.Unmarshal(body, &x)
	if resp.StatusCode != http.StatusOK {
		text := string(body)
		if err == nil && x.Error != "" {
			// The lines behind the first are numbers of the request.
			first, _, _ := strings.Cut(x.Description, "\n")
			text = x.Error + ": " + first
		}
		return azcore.AccessToken{}, i.failed(resp.StatusCode, errors.New(remote.Text(text)))
	}
	seconds, nerr := x.ExpiresIn.Int64()
	if err != nil || nerr != nil || x.Token == "" || seconds <= 0 {
		return azcore.AccessToken{}, i.failed(resp.StatusCode, errors.New("the answer has no token"))
	}
	return azcore.AccessToken{Token: x.Token, ExpiresOn: now.Add(time.Duration(min(seconds, 7*24*3600)) * time.Second)}, nil
}

func (i *identity) request(ctx context.Context, scope string) (*http.Request, error) {
	if i.kind == byMachine {
		q := url.Values{"api-version": {"2018-02-01"}, "resource": {strings.TrimSuffix(scope, "/.default")}}
		if i.client != "" {
			q.Set("client_id", i.client)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, i.instanceHost+"/metadata/identity/oauth2/token?"+q.Encode(), nil)
		if err == nil {
			req.Header.Set("Metadata", "true")
		}
		return req, err
	}
	q := url.Values{"grant_type": {"client_credentials"}, "client_id": {i.client}, "scope": {scope}}
	if i.kind == byClientSecret {
		q.Set("client_secret", i.secret)
	} else {
		// Kubernetes renews it.
		token, err := os.ReadFile(i.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("AZURE_FEDERATED_TOKEN_FILE: %w", err)
		}
		q.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		q.Set("client_assertion", strings.TrimSpace(string(token)))
	}
	at := strings.TrimSuffix(i.authority, "/") + "/" + url.PathEscape(i.tenant) + "/oauth2/v2.0/token"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(q.Encode()))
	if err == nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return req, err
}

func (i *identity) failed(status int, err error) error { return &tokenError{i.kind, status, err} }

// tokenError says that there is no access token. It is about the credentials,
// not about the container.
type tokenError struct {
	kind   string
	status int // 0: no answer
	err    error
}

func (t *tokenError) Error() string {
	if t.status == 0 {
		return fmt.Sprintf("no access token by %s: %v", t.kind, t.err)
	}
	return fmt.Sprintf("no access token by %s: %d %v", t.kind, t.status, t.err)
}

func (t *tokenError) Unwrap() error { return t.err }

// NonRetriable keeps the SDK from trying again.
func (t *tokenError) NonRetriable() {}
