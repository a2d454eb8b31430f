//go:build integration

package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/s3server"
)

// runFsck runs loki-go fsck and returns its findings by kind, and its exit code.
func runFsck(t *testing.T, dir string, args ...string) (kinds map[string]int, repaired, code int) {
	t.Helper()
	cmd := exec.Command(testkit.Binary(t), append([]string{"fsck", "-json", "-data-dir=" + dir}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	code = cmd.ProcessState.ExitCode()
	if code > 1 {
		t.Fatalf("fsck ended with %d:\n%s\n%s", code, stdout.String(), stderr.String())
	}
	kinds = map[string]int{}
	for line := range strings.Lines(stdout.String()) {
		var v struct {
			Kind     string
			Summary  json.RawMessage
			Repaired int
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("fsck printed %q: %v", line, err)
		}
		if v.Summary != nil {
			repaired = v.Repaired
			continue
		}
		kinds[v.Kind]++
		if t.Failed() {
			t.Log(line)
		}
	}
	return kinds, repaired, code
}

// startExample starts stock Loki with an example, in which texts are replaced,
// and returns its URL.
func startExample(t *testing.T, name string, replace map[string]string) string {
	t.Helper()
	dir, port := t.TempDir(), testkit.FreePort(t)
	b, err := os.ReadFile(filepath.Join("..", "examples", "stock-loki", name))
	if err != nil {
		t.Fatal(err)
	}
	conf := string(b)
	replace["/var/lib/loki-reader"] = dir
	replace["http_listen_port: 3101"] = "http_listen_port: " + strconv.Itoa(port)
	replace["grpc_listen_port: 9096"] = "grpc_listen_port: " + strconv.Itoa(testkit.FreePort(t))
	for old, now := range replace {
		if !strings.Contains(conf, old) {
			t.Fatalf("%s has no %q", name, old)
		}
		conf = strings.ReplaceAll(conf, old, now)
	}
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(tool(t, "loki"), "-config.file="+file)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("loki printed:\n%s", log.String())
		}
	})
	url := "http://127.0.0.1:" + strconv.Itoa(port)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := (&testkit.Client{Base: url}).Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return url
}

// files returns the files below dir that have content of ours.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, ".loki-go-tmp") && !strings.Contains(path, ".sgwtmp") {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestIndexIsMadeAgain loses the whole index of a bucket that two tenants have
// filled while fsck ran beside, has it made again from the chunks, and reads
// every line back with loki-go and with stock Loki, as the examples start it.
func TestIndexIsMadeAgain(t *testing.T) {
	t.Parallel()
	t.Run("filesystem", func(t *testing.T) {
		dir := t.TempDir()
		indexIsMadeAgain(t, dir, filepath.Join(dir, "objects"), nil, func() string {
			return startExample(t, "filesystem.yaml", map[string]string{"/var/lib/loki-go": dir})
		})
	})
	t.Run("s3", func(t *testing.T) {
		s3 := s3server.New(t, "logs")
		indexIsMadeAgain(t, t.TempDir(), filepath.Join(s3.Dir, "logs"), s3Bucket(s3, "logs").Args, func() string {
			return startExample(t, "s3.yaml", map[string]string{
				"s3.example.com": strings.TrimPrefix(s3.URL, "http://"), "us-east-1": s3server.Region,
				"ACCESS-KEY": s3server.AccessKey, "SECRET-KEY": s3server.SecretKey, "insecure: false": "insecure: true",
			})
		})
	})
}

func indexIsMadeAgain(t *testing.T, dir, objects string, args []string, startLoki func() string) {
	ctx := context.Background()
	midnight := time.Now().UTC().Truncate(24 * time.Hour)
	start := midnight.Add(-5 * time.Minute).UnixNano() // chunks are in two tables
	end := midnight.Add(time.Hour).UnixNano()
	tenants := []string{"team-a", "team-b"}
	args = append([]string{"-auth.enabled=true", "-ingester.index-interval=1s"}, args...)
	server := testkit.NewServer(t, dir, append([]string{
		"-ingester.chunk-block-size=16KB", "-ingester.chunk-target-size=64KB",
		"-compactor.enabled=true", "-compactor.interval=1s", "-compactor.min-files=2",
	}, args...)...)
	server.Start()
	server.WaitReady()
	settings := append(slices.Clone(args), "-grace=10m")
	for _, codec := range []string{"first", "second", "third"} {
		for _, tenant := range tenants {
			if err := server.Client(tenant).Push(ctx, corpus(codec, tenant, start)); err != nil {
				t.Fatal(err)
			}
		}
		if kinds, _, code := runFsck(t, dir, settings...); code != 0 {
			t.Fatalf("beside a server: %v", kinds)
		}
		if err := server.Client("").Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	settings[len(settings)-1] = "-grace=0s"
	if kinds, _, code := runFsck(t, dir, settings...); code != 0 {
		t.Fatalf("after the end: %v", kinds)
	}

	if err := os.RemoveAll(filepath.Join(objects, "index")); err != nil {
		t.Fatal(err)
	}
	chunks := 0
	for _, tenant := range tenants {
		chunks += len(files(t, filepath.Join(objects, tenant)))
	}
	kinds, repaired, code := runFsck(t, dir, settings...)
	if code != 1 || len(kinds) > 2 || kinds["chunk-without-index"] != chunks || chunks < 36 || repaired != 0 {
		t.Fatalf("without index: exit code %d, %v, %d chunks", code, kinds, chunks)
	}
	kinds, repaired, code = runFsck(t, dir, append(settings, "-repair")...)
	if code != 1 || repaired != chunks {
		t.Fatalf("repair: exit code %d, %v, %d of %d chunks", code, kinds, repaired, chunks)
	}
	before := files(t, objects)
	if kinds, _, code := runFsck(t, dir, append(settings, "-repair")...); code != 0 || !slices.Equal(before, files(t, objects)) {
		t.Fatalf("repaired again: exit code %d, %v", code, kinds)
	}

	// A process that has nothing but the bucket.
	reader := dir
	if strings.HasPrefix(objects, dir) {
		for _, name := range []string{"wal", "blocks"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	} else {
		reader = t.TempDir()
	}
	server = testkit.NewServer(t, reader, args...)
	server.Start()
	server.WaitReady()
	read := func(what, url string) {
		t.Helper()
		for _, tenant := range tenants {
			for _, codec := range []string{"first", "second", "third"} {
				c := &testkit.Client{Base: url, Tenant: tenant}
				got, err := c.QueryAll(ctx, fmt.Sprintf(`{codec=%q}`, codec), start-2*int64(lateBy), end)
				if err != nil {
					t.Fatalf("%s: %s, %s: %v", what, tenant, codec, err)
				}
				compare(t, what+": "+tenant+", "+codec, got, corpus(codec, tenant, start))
			}
		}
	}
	read("loki-go", "http://"+server.HTTP)
	if err := server.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	read("loki", startLoki())
	if after := files(t, objects); !slices.Equal(before, after) {
		t.Errorf("stock Loki changed the bucket: %d objects, %d before", len(after), len(before))
	}
}
