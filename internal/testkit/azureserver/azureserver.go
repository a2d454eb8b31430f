// Package azureserver starts an emulator of Azure Blob Storage, Azurite, for
// tests. It needs Node.js; make clients installs both. LOKI_GO_TOOLS names the
// folder.
package azureserver

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
)

// The account of every server.
const (
	Account = "lokigotest"
	Key     = "bm90IGEgc2VjcmV0LCBidXQgYSBrZXkgZm9yIHRlc3Rz"
)

// Server is a running emulator. What it holds is in its memory.
type Server struct {
	URL string // of the account's blob service

	t      testing.TB
	client *http.Client
}

// New starts an emulator with these containers; it ends with the test.
func New(t testing.TB, containers ...string) *Server {
	t.Helper()
	return start(t, "http", &http.Client{}, nil, containers)
}

// NewTLS starts an emulator that speaks TLS, and takes the tokens of identities
// without a look at their signatures.
func NewTLS(t testing.TB, certs *testcert.Certs, containers ...string) *Server {
	t.Helper()
	cfg, err := tlsconf.Client{CAFile: certs.CA}.Config()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}
	t.Cleanup(client.CloseIdleConnections)
	return start(t, "https", client, []string{"--cert", certs.Cert, "--key", certs.Key, "--oauth", "basic"}, containers)
}

func start(t testing.TB, scheme string, client *http.Client, args, containers []string) *Server {
	t.Helper()
	tools := os.Getenv("LOKI_GO_TOOLS")
	if tools == "" {
		t.Fatal("LOKI_GO_TOOLS is not set: run make integration")
	}
	port := testkit.FreePort(t)
	base := fmt.Sprintf("%s://127.0.0.1:%d", scheme, port)
	s := &Server{URL: base + "/" + Account, t: t, client: client}
	args = append([]string{
		filepath.Join(tools, "node_modules/azurite/dist/src/blob/main.js"), "--blobHost", "127.0.0.1", "--blobPort", strconv.Itoa(port),
		"--inMemoryPersistence", "--silent", "--disableTelemetry",
		"--skipApiVersionCheck", // the SDK is newer; what is used of it is old
	}, args...)
	testkit.StartTool(t, client, base, []string{"AZURITE_ACCOUNTS=" + Account + ":" + Key}, "node", args...)
	for _, c := range containers {
		s.MakeContainer(c)
	}
	return s
}

func (s *Server) container(name string) *container.Client {
	s.t.Helper()
	key, err := container.NewSharedKeyCredential(Account, Key)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(s.URL+"/"+name, key, &container.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: s.client, Retry: policy.RetryOptions{MaxRetries: -1}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// MakeContainer adds an empty container.
func (s *Server) MakeContainer(name string) {
	s.t.Helper()
	if _, err := s.container(name).Create(context.Background(), nil); err != nil {
		s.t.Fatal(err)
	}
}

// SAS returns a token with these permissions ("rwdl" is all that loki-go needs)
// that is good until an hour from now.
func (s *Server) SAS(name, permissions string) string {
	s.t.Helper()
	key, err := container.NewSharedKeyCredential(Account, Key)
	if err != nil {
		s.t.Fatal(err)
	}
	q, err := sas.BlobSignatureValues{
		Version: "2022-11-02", ExpiryTime: time.Now().Add(time.Hour).UTC(), ContainerName: name, Permissions: permissions,
	}.SignWithSharedKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	return q.Encode()
}
