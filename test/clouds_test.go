//go:build integration

package test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/azureserver"
	"github.com/loki-go/loki-go/internal/testkit/gcsserver"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/azure"
	"github.com/loki-go/loki-go/storage/objstore/gcs"
)

// serviceAccount returns the key of an account of Google's, and a file with it.
// A stand-in for the issuer of tokens answers with this status and text.
func serviceAccount(t *testing.T, status int, answer string) (key, file string) {
	t.Helper()
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, answer)
	}))
	t.Cleanup(issuer.Close)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "writer@project.example.com", "token_uri": issuer.URL, "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return string(text), file
}

const tokenAnswer = `{"access_token":"token","token_type":"Bearer","expires_in":3600}`

// gcsBucket is used with a service account. Loki finds the emulator by the
// environment.
func gcsBucket(t *testing.T, s *gcsserver.Server, name string) bucket {
	t.Helper()
	key, file := serviceAccount(t, http.StatusOK, tokenAnswer)
	quoted, err := json.Marshal(key) // YAML, too
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(s.URL, "http://"))
	return bucket{
		Type: "gcs",
		YAML: fmt.Sprintf("gcs: {bucket_name: %s, service_account: %s}", name, quoted),
		Args: []string{"-storage.type=gcs", "-storage.gcs.endpoint=" + s.URL, "-storage.gcs.bucket=" + name, "-storage.gcs.credentials-file=" + file},
		Open: func(t *testing.T) objstore.Bucket {
			t.Helper()
			c := gcs.DefaultConfig()
			c.Endpoint, c.Bucket, c.CredentialsFile = s.URL, name, file
			b, err := gcs.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			return objstore.Resilient(b, objstore.DefaultRetryConfig(), nil)
		},
	}
}

func azureBucket(s *azureserver.Server, name string) bucket {
	return bucket{
		Type: "azure",
		YAML: fmt.Sprintf("azure: {container_name: %s, account_name: %s, connection_string: 'AccountName=%s;AccountKey=%s;BlobEndpoint=%s'}",
			name, azureserver.Account, azureserver.Account, azureserver.Key, s.URL),
		Args: []string{
			"-storage.type=azure", "-storage.azure.endpoint=" + s.URL, "-storage.azure.container=" + name,
			"-storage.azure.account=" + azureserver.Account, "-storage.azure.account-key=" + azureserver.Key,
		},
		Open: func(t *testing.T) objstore.Bucket {
			t.Helper()
			c := azure.DefaultConfig()
			c.Endpoint, c.Container, c.Account, c.AccountKey = s.URL, name, azureserver.Account, azureserver.Key
			b, err := azure.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			return objstore.Resilient(b, objstore.DefaultRetryConfig(), nil)
		},
	}
}

// TestCloudStores pushes, stores, and reads everything back: with a new process
// that has nothing but the store, and with stock Loki; fsck finds nothing.
func TestCloudStores(t *testing.T) {
	for name, newBucket := range map[string]func(*testing.T) bucket{
		"gcs":   func(t *testing.T) bucket { return gcsBucket(t, gcsserver.New(t, "logs"), "logs") },
		"azure": func(t *testing.T) bucket { return azureBucket(azureserver.New(t, "logs"), "logs") },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			store := newBucket(t)
			args := append([]string{"-auth.enabled=true", "-ingester.chunk-block-size=16KB", "-ingester.chunk-target-size=64KB"}, store.Args...)
			start := time.Now().Add(-time.Hour).Truncate(time.Second).UnixNano()
			end := time.Now().Add(time.Hour).UnixNano()
			want := corpus("zstd", "team-a", start)
			s := testkit.NewServer(t, t.TempDir(), args...)
			s.Start()
			s.WaitReady()
			if err := s.Client("team-a").Push(ctx, want); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Client("").Do(ctx, http.MethodPost, "/flush?wait=true", "", nil); err != nil {
				t.Fatal(err)
			}
			s.Kill() // what is stored is stored
			s = testkit.NewServer(t, t.TempDir(), args...)
			s.Start()
			s.WaitReady()
			reads := func(who string, c *testkit.Client, want []testkit.Stream) {
				t.Helper()
				got, err := c.QueryAll(ctx, `{codec="zstd"}`, start-12*int64(time.Hour), end)
				if err != nil {
					t.Fatalf("%s: %v", who, err)
				}
				compare(t, who, got, want)
			}
			keys, err := store.Open(t).List(ctx, "", true)
			if err != nil || len(keys) < 7 {
				t.Errorf("chunks of 6 streams and an index are %q, %v", keys, err)
			}
			reads("loki-go", s.Client("team-a"), want)
			reads("loki-go, another tenant", s.Client("team-b"), nil)
			if err := s.Stop(30 * time.Second); err != nil {
				t.Error(err)
			}
			out, err := exec.Command(testkit.Binary(t), append([]string{"fsck", "-grace=0s", "-data-dir=" + t.TempDir()}, store.Args...)...).Output()
			if err != nil || !strings.HasSuffix(string(out), "all is well\n") {
				t.Errorf("fsck: %v\n%s", err, out)
			}
			reads("loki", &testkit.Client{Base: startLoki(t, store), Tenant: "team-a"}, want)
		})
	}
}

// TestCloudMistakesStopTheStart: what is wrong with the settings is one line that
// says what to mend, and exit code 1.
func TestCloudMistakesStopTheStart(t *testing.T) {
	bin := testkit.Binary(t)
	f := func(name, want string, args ...string) {
		t.Run(name, func(t *testing.T) {
			base := []string{
				"-data-dir=" + t.TempDir(), "-server.http-listen=127.0.0.1:0", "-server.grpc-listen=127.0.0.1:0",
				"-forward.listen=127.0.0.1:0", "-otlp.grpc-listen=", "-log.level=error",
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, bin, append(base, args...)...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			err := cmd.Run()
			if code := cmd.ProcessState.ExitCode(); err == nil || code != 1 {
				t.Errorf("exit code %d", code)
			}
			out := stderr.String()
			if strings.Count(out, "\n") != 1 || !strings.Contains(out, want) || strings.Contains(out, "sig=") {
				t.Errorf("printed %q, want one line with %q", out, want)
			}
		})
	}
	g := gcsserver.New(t, "logs")
	google := gcsBucket(t, g, "logs").Args
	_, refused := serviceAccount(t, http.StatusBadRequest, `{"error":"invalid_grant","error_description":"Invalid JWT Signature."}`)
	f("gcs bucket", "storage.gcs: list objects: list others/index/: 404 Not Found, notFound: ", append(google, "-storage.gcs.bucket=others")...)
	f("gcs bucket, advice", "(create the bucket others or correct storage.gcs.bucket", append(google, "-storage.gcs.bucket=others")...)
	f("gcs account", "400 invalid_grant Invalid JWT Signature. (renew storage.gcs.credentials-file", append(google, "-storage.gcs.credentials-file="+refused)...)
	f("gcs file", "storage.gcs: credentials-file: stat /nowhere: no such file or directory", append(google, "-storage.gcs.credentials-file=/nowhere")...)

	a := azureserver.New(t, "logs")
	microsoft := azureBucket(a, "logs").Args
	f("azure container", "storage.azure: list objects: list others/index/: 404 Not Found, ContainerNotFound: ", append(microsoft, "-storage.azure.container=others")...)
	f("azure container, advice", "(create the container others or correct storage.azure.container)", append(microsoft, "-storage.azure.container=others")...)
	f("azure key", "(correct storage.azure.account-key, or set this machine's clock, or allow", append(microsoft, "-storage.azure.account-key=d3Jvbmc=")...)
	f("azure sas token of another", "(renew storage.azure.sas-token", append(microsoft, "-storage.azure.account-key=", "-storage.azure.sas-token="+a.SAS("others", "rwdl"))...)
	f("azure sas token that may only read", "write an object: put logs/loki-go/check-", append(microsoft, "-storage.azure.account-key=", "-storage.azure.sas-token="+a.SAS("logs", "rl"))...)
	f("azure sas token, advice", "(allow write in the SAS token", append(microsoft, "-storage.azure.account-key=", "-storage.azure.sas-token="+a.SAS("logs", "rl"))...)
}
