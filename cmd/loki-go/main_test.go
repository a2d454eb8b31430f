package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

const reference = "../../docs/configuration.md"

const referenceHead = `# Configuration

Every setting can be given in a YAML file (` + "`-config.file=FILE`" + `), where the parts of its name are nested, and as a flag
of its full name (` + "`-server.http-listen=:3100`" + `). Flags win over the file, the file over the defaults. An unknown key, a key
given twice, and a value that does not fit are errors that name the line.

    data-dir: /var/lib/loki-go
    server:
      http-listen: :3100
    limits:
      ingestion-rate-mb: ${RATE_MB:-16}

` + "`${NAME}` is replaced by an environment variable, `${NAME:-text}` has a default, `$${` is a literal `${`" + `. Durations are
written as 30s, 5m, 1h30m or 7d, sizes as 256KB or 4MB (powers of 1024), lists as YAML lists or separated by commas.

    loki-go -verify-config -config.file=FILE    # lists all problems at once
    loki-go -print-config -config.file=FILE     # the effective settings, secrets masked
    loki-go -help                               # this reference

This file is made from the help texts: ` + "`make docs`" + `.
`

// TestReference keeps docs/configuration.md as the help texts are.
func TestReference(t *testing.T) {
	s, err := newSettings()
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range s.cfgBinding.Settings() {
		if set.Help == "" && !set.Overrides() {
			t.Errorf("%s has no help text", set.Name)
		}
	}
	var want bytes.Buffer
	want.WriteString(referenceHead)
	s.cfgBinding.Markdown(&want)
	if *update {
		if err := os.WriteFile(reference, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("docs/configuration.md is not what the help texts say: make docs")
	}
}

// contract lists the flags that other tools rely on, with their defaults.
const contract = `-target=all -data-dir=./data -server.http-listen=:3100 -server.grpc-listen=:9095 -forward.listen=:24224
-otlp.grpc-listen=:4317 -auth.enabled=false -storage.type=filesystem -storage.s3.endpoint= -storage.s3.region=us-east-1
-storage.s3.bucket= -storage.s3.access-key= -storage.s3.secret-key= -storage.s3.path-style=false -ring.store=memory
-ring.consul.address=127.0.0.1:8500 -ring.prefix=loki-go/ring -ring.replication-factor=1 -ingester.id= -ingester.zone=
-ingester.advertise= -ingester.wal.sync=always -ingester.chunk-encoding=zstd -ingester.chunk-idle-period=30m
-ingester.max-chunk-age=2h -ingester.flush-on-shutdown=true -cache.type=none -cache.addresses= -mapping.label-keys=
-mapping.line-keys=log,message,msg -mapping.line-format=auto -limits.ingestion-rate-mb=4 -limits.ingestion-burst-size-mb=6
-limits.max-line-size=256KB -limits.max-label-names-per-series=15 -limits.reject-old-samples-max-age=168h
-limits.creation-grace-period=10m -limits.max-global-streams-per-user=5000 -limits.per-stream-rate-limit=3MB
-log.level=info -log.format=logfmt`

func TestContractOfFlags(t *testing.T) {
	s, err := newSettings()
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]string{}
	for _, set := range s.cfgBinding.Settings() {
		defaults[set.Name] = set.Default
	}
	for _, f := range strings.Fields(contract) {
		name, want, _ := strings.Cut(strings.TrimPrefix(f, "-"), "=")
		if got, ok := defaults[name]; !ok || got != want {
			t.Errorf("-%s: default is %q (there: %v), want %q", name, got, ok, want)
		}
	}
	for name, want := range map[string]int64{"ingester.chunk-target-size": 1572864, "ingester.chunk-block-size": 262144} {
		got := map[string]int64{"ingester.chunk-target-size": int64(s.cfg.Ingester.ChunkTargetSize), "ingester.chunk-block-size": int64(s.cfg.Ingester.ChunkBlockSize)}[name]
		if got != want {
			t.Errorf("-%s: default is %d, want %d", name, got, want)
		}
	}
}

// call runs the program and returns its exit code and what it printed.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return callWith(t, "", args...)
}

func callWith(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // whatever starts shall stop
	var out, errs bytes.Buffer
	code = run(ctx, args, func(name string) (string, bool) { return "from-env", name == "SET" }, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestVerifyConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("data-dir: x\nserver:\n  http-lissen: a\nstorage: {type: gcs, gcs: {storage-class: COLD}}\nring: {store: etcd, replication-factor: 3}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, out, errs := call(t, "-verify-config", "-config.file="+file, "-nonsense=1", "-log.level=loud", "-ingester.wal.sync=sometimes", "-mapping.line-format=xml")
	for _, want := range []string{
		"c.yaml:3: unknown setting server.http-lissen, did you mean server.http-listen?",
		"unknown flag -nonsense", `log.level: "loud"`, "ingester.wal.sync:", "mapping.line-format:",
		"storage.gcs.bucket: must be set", `storage.gcs.storage-class: "COLD"`, `ring.store: "etcd" is neither`,
	} {
		if strings.Count(errs, want) != 1 {
			t.Errorf("%q is not reported once:\n%s", want, errs)
		}
	}
	if code != 1 || out != "" {
		t.Errorf("exit code %d, printed %q", code, out)
	}
	code, out, errs = call(t, "-verify-config", "-data-dir=${SET}")
	if code != 0 || strings.Count(out, "\n") != 1 || errs != "" {
		t.Errorf("good settings: %d %q %q", code, out, errs)
	}
}

func TestBadSettingsAreOneLine(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		code, out, errs := call(t, args...)
		if code != 1 || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, want) {
			t.Errorf("%v: exit code %d, printed %q and %q, want %q", args, code, out, errs, want)
		}
	}
	f("unknown flag -foo", "-foo")
	f("unexpected argument", "serve")
	f("config.file: open /nowhere", "-config.file=/nowhere")
	f("(and 1 more problems", "-foo", "-bar=1")
	f("target: querier needs other processes", "-target=querier")
	f("environment variable NOT_SET is not set", "-data-dir=${NOT_SET}")
}

func TestPrintConfig(t *testing.T) {
	code, out, errs := call(t, "-print-config", "-storage.s3.secret-key=hunter2", "-data-dir=${SET}")
	if code != 0 || errs != "" || strings.Contains(out, "hunter2") || !strings.Contains(out, "data-dir: from-env\n") || !strings.Contains(out, "secret-key: <secret>\n") {
		t.Errorf("%d %q\n%s", code, errs, out)
	}
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, again, errs := call(t, "-print-config", "-config.file="+file); code != 0 || again != out {
		t.Errorf("what was printed does not read back: %d %s\n%s", code, errs, again)
	}
}

func TestHelpAndVersion(t *testing.T) {
	code, out, _ := call(t, "-help")
	if code != 0 || !strings.Contains(out, "-server.http-listen=:3100") || !strings.Contains(out, "-verify-config=false") {
		t.Errorf("help: %d %s", code, out)
	}
	code, out, _ = call(t, "--version")
	if code != 0 || !strings.HasPrefix(out, "loki-go devel go1.") {
		t.Errorf("version: %d %q", code, out)
	}
}

func TestExplain(t *testing.T) {
	code, out, errs := callWith(t, `{"log":"hello","app":"shop","n":1}`, "explain", "-receiver=forward", "-tag=t1", "-mapping.label-keys=app", "-json")
	for _, want := range []string{`"stream":"{app=\"shop\", job=\"forward\"}"`, `"line":"hello"`, `"n":"1"`, `"tag":"t1"`} {
		if code != 0 || errs != "" || !strings.Contains(out, want) {
			t.Errorf("%d %q, no %s in %s", code, errs, want, out)
		}
	}
	if code, _, errs := callWith(t, "{", "explain"); code != 1 || !strings.HasPrefix(errs, "loki-go: ") {
		t.Errorf("broken record: %d %q", code, errs)
	}
	if code, _, errs := callWith(t, "{}", "explain", "-receiver=nobody"); code != 1 || !strings.Contains(errs, "nobody") {
		t.Errorf("unknown receiver: %d %q", code, errs)
	}
	if code, out, _ := call(t, "explain", "-help"); code != 0 || !strings.Contains(out, "-receiver=forward") {
		t.Errorf("help: %d %s", code, out)
	}
}

func TestHashPassword(t *testing.T) {
	code, out, errs := callWith(t, "secret\n", "hash-password")
	if code != 0 || errs != "" || bcrypt.CompareHashAndPassword([]byte(strings.TrimSpace(out)), []byte("secret")) != nil {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if code, _, errs := call(t, "hash-password", "secret"); code != 1 || !strings.Contains(errs, "standard input") {
		t.Errorf("password as an argument: %d %q", code, errs)
	}
}
