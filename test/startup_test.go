package test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// TestStartFailsWithOneLine: what keeps the process from starting is one line
// on stderr that names it, and exit code 1.
func TestStartFailsWithOneLine(t *testing.T) {
	bin := testkit.Binary(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()

	running := testkit.NewServer(t, t.TempDir())
	running.Start()
	running.WaitReady()

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f := func(name, want string, args ...string) {
		t.Run(name, func(t *testing.T) {
			base := []string{
				"-data-dir=" + t.TempDir(), "-server.http-listen=127.0.0.1:0", "-server.grpc-listen=127.0.0.1:0",
				"-forward.listen=127.0.0.1:0", "-otlp.grpc-listen=", "-log.level=error",
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, bin, append(base, args...)...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			err := cmd.Run()
			if code := cmd.ProcessState.ExitCode(); err == nil || code != 1 {
				t.Errorf("exit code %d", code)
			}
			out := stderr.String()
			if strings.Count(out, "\n") != 1 || !strings.Contains(out, want) {
				t.Errorf("printed %q, want one line with %q", out, want)
			}
		})
	}
	f("http port", "server.http-listen: listen tcp "+taken, "-server.http-listen="+taken)
	f("grpc port", "server.grpc-listen: listen tcp "+taken, "-server.grpc-listen="+taken)
	f("forward port", "forward: listen tcp4 "+taken, "-forward.listen="+taken)
	f("bad address", "server.http-listen:", "-server.http-listen=nowhere")
	f("locked directory", "data-dir: "+running.Dir+" is in use by another process", "-data-dir="+running.Dir)
	f("directory is a file", "data-dir: mkdir "+file, "-data-dir="+file)
	f("directory cannot be made", "data-dir:", "-data-dir=/proc/loki-go")
	f("bad flag", "unknown flag -foo", "-foo")
	f("unknown store", `storage.type: "ftp" is not filesystem, s3, gcs or azure`, "-storage.type=ftp")
	f("no bucket", "storage.gcs.bucket: must be set", "-storage.type=gcs")
	f("no container", "storage.azure.container: must be set", "-storage.type=azure", "-storage.azure.account=acc", "-storage.azure.account-key=a2V5")
	f("a part alone", "target: querier needs other processes, which ring.store=memory does not find", "-target=querier")
	f("no such target", `target: "reader" is not all, gateway, ingester, querier or compactor`, "-target=reader")
	f("cluster without a shared store", "storage.type: with ring.store=consul all processes share a store", "-ring.store=consul")
	f("port of a compactor", "server.http-listen: listen tcp "+taken, "-target=compactor", "-server.http-listen="+taken)
}
