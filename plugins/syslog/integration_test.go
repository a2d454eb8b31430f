//go:build integration

package syslog

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
)

// These tests run real senders, which testdata/clients.sh installs.

// settle waits until there are n entries, or for as long as that may take.
func (s *fakeSink) settle(t testing.TB, n int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); len(s.all()) < n && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
}

func binary(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path := filepath.Join(dir, name); isFile(path) {
			return path
		}
	}
	t.Fatalf("%s is not installed: run testdata/clients.sh", name)
	return ""
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// run starts a process that ends with the test.
func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, out.String())
		}
	})
}

// devLog waits for a daemon to open its socket and connects to it.
func devLog(t *testing.T, path string) net.Conn {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unixgram", path); err == nil {
			t.Cleanup(func() { c.Close() })
			return c
		}
	}
	t.Fatalf("nobody listens at %s", path)
	return nil
}

// all transports at once.
func openAll(t *testing.T) (*rig, *testcert.Certs) {
	t.Helper()
	certs := testcert.New(t)
	r := openRig(t, &fakeSink{}, func(c *Config) {
		c.ListenTLS, c.ListenUDP = "127.0.0.1:0", "127.0.0.1:0"
		c.TLS = tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key, ClientCAFile: certs.CA}
	})
	return r, certs
}

func port(a net.Addr) string {
	_, p, _ := net.SplitHostPort(a.String())
	return p
}

// text is what the tests log: octets that are no UTF-8, spaces that count.
func text(i int) string { return fmt.Sprintf("line %d  \xff\xfe [x] \"quoted\" ü ", i) }

// --- rsyslog -------------------------------------------------------------------

func startRsyslog(t *testing.T, global, action string) net.Conn {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "log")
	conf := fmt.Sprintf(`
global(workDirectory=%q localHostname="myhost" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off" %s)
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket=%q RateLimit.Interval="0")
action(type="omfwd" Target="127.0.0.1" action.resumeRetryCount="-1" action.resumeInterval="1" queue.type="LinkedList" queue.size="100000" %s)
`, dir, global, socket, action)
	file := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command(binary(t, "rsyslogd"), "-n", "-f", file, "-i", filepath.Join(dir, "pid")))
	return devLog(t, socket)
}

// logLines writes n messages as the C library's syslog(3) does.
func logLines(t *testing.T, c net.Conn, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		send(t, c, fmt.Sprintf("<%d>%s prog[%d]: %s", 3*8+4, time.Now().UTC().Format(time.Stamp), 4711, text(i)))
	}
}

// checkLines checks that the entries are lines 0 to n, each once, as logLines has
// written them; space is what the sender puts before the text.
func checkLines(t *testing.T, got []stored, n int, space string, extra ...string) {
	t.Helper()
	seen := map[string]int{}
	for _, e := range got {
		seen[e.line]++
		meta := []string{"app_name=prog", "facility=daemon", "hostname=myhost", "level=warn", "proc_id=4711", "severity=warning", "connection_ip_address=127.0.0.1"}
		for _, want := range append(meta, extra...) {
			name, value, _ := strings.Cut(want, "=")
			if e.meta[name] != value {
				t.Fatalf("%s: %s is not %q", e, name, value)
			}
		}
		if e.labels != `{job="syslog", service_name="prog"}` {
			t.Fatalf("got %s", e)
		}
		if d := time.Since(time.Unix(0, e.ts)); d < -2*time.Second || d > time.Minute {
			t.Fatalf("the time of %s is %s ago", e, d)
		}
	}
	for i := range n {
		if k := seen[space+text(i)]; k != 1 {
			t.Errorf("line %d is there %d times", i, k)
		}
	}
	if len(got) != n {
		t.Fatalf("%d entries of %d", len(got), n)
	}
}

func TestRsyslog(t *testing.T) {
	const n = 300
	f := func(name, space, transport, format string, setup func(r *rig, certs *testcert.Certs) (global, action string)) {
		t.Run(name, func(t *testing.T) {
			r, certs := openAll(t)
			global, action := setup(r, certs)
			logLines(t, startRsyslog(t, global, action), 0, n)
			checkLines(t, r.sink.await(t, n), n, space)
			r.expectValue(t, "messages_total", transport, n)
			r.expectValue(t, "messages_total", format, n)
			r.expectValue(t, "framing_errors_total", "", 0)
		})
	}
	plain := func(action string) func(*rig, *testcert.Certs) (string, string) {
		return func(r *rig, _ *testcert.Certs) (string, string) {
			return "", fmt.Sprintf(`Protocol="tcp" Port=%q %s`, port(r.TCPAddr()), action)
		}
	}
	// In the new format the space behind the tag is part of the text.
	f("octet counted", " ", "tcp", "rfc5424", plain(`TCP_Framing="octet-counted" Template="RSYSLOG_SyslogProtocol23Format"`))
	f("lines, new format", " ", "tcp", "rfc5424", plain(`Template="RSYSLOG_SyslogProtocol23Format"`))
	f("forward format", "", "tcp", "rfc3164", plain(`Template="RSYSLOG_ForwardFormat"`))
	f("traditional", "", "tcp", "rfc3164", plain(`Template="RSYSLOG_TraditionalForwardFormat"`))
	f("traditional, octet counted", "", "tcp", "rfc3164", plain(`TCP_Framing="octet-counted"`))
	f("NUL", "", "tcp", "rfc3164", plain(`TCP_FrameDelimiter="0"`))
	f("udp", "", "udp", "rfc3164", func(r *rig, _ *testcert.Certs) (string, string) {
		return "", fmt.Sprintf(`Protocol="udp" Port=%q`, port(r.UDPAddr()))
	})
	for _, driver := range []string{"gtls", "ossl"} {
		f("tls, "+driver, " ", "tls", "rfc5424", func(r *rig, certs *testcert.Certs) (string, string) {
			return fmt.Sprintf(`DefaultNetstreamDriverCAFile=%q DefaultNetstreamDriverCertFile=%q DefaultNetstreamDriverKeyFile=%q`,
					certs.CA, certs.ClientCert, certs.ClientKey),
				fmt.Sprintf(`Protocol="tcp" Port=%q TCP_Framing="octet-counted" Template="RSYSLOG_SyslogProtocol23Format"
	StreamDriver=%q StreamDriverMode="1" StreamDriverAuthMode="x509/name" StreamDriverPermittedPeers="localhost"`, port(r.TLSAddr()), driver)
		})
	}
}

// A receiver that is restarted while rsyslog sends, and is away for a while,
// gets every line.
func TestRsyslogSurvivesRestarts(t *testing.T) {
	testRestarts(t, func(t *testing.T, addr string) net.Conn {
		_, port, _ := net.SplitHostPort(addr)
		return startRsyslog(t, "", fmt.Sprintf(`Protocol="tcp" Port=%q TCP_Framing="octet-counted" Template="RSYSLOG_ForwardFormat"`, port))
	})
}

func testRestarts(t *testing.T, start func(t *testing.T, addr string) net.Conn) {
	const rounds, each = 5, 2000
	sink := &fakeSink{}
	r := openRig(t, sink, nil)
	addr := r.TCPAddr().String()
	c := start(t, addr)
	for round := range rounds {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range each {
				logLines(t, c, round*each+i, 1)
				if i%20 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		}()
		sink.await(t, round*each+each/4)
		r.Close()
		<-done // the rest of them finds nobody
		r = openRig(t, sink, func(c *Config) { c.ListenTCP = addr })
	}
	sink.settle(t, rounds*each)
	checkLines(t, sink.all(), rounds*each, "")
}

// --- syslog-ng -------------------------------------------------------------------

func startSyslogNG(t *testing.T, destination string) net.Conn {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "log")
	conf := fmt.Sprintf(`@version: 3.38
options { stats-freq(0); use-dns(no); keep-hostname(yes); frac-digits(6); time-reopen(1); log-fifo-size(100000); };
source s { unix-dgram(%q host-override("myhost") so-rcvbuf(1048576)); };
destination d { %s };
log { source(s); destination(d); };
`, socket, destination)
	file := filepath.Join(dir, "syslog-ng.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return runSyslogNG(t, dir, file)
}

// runSyslogNG runs syslog-ng with a configuration whose source is dir/log.
func runSyslogNG(t *testing.T, dir, file string) net.Conn {
	t.Helper()
	socket := filepath.Join(dir, "log")
	args := []string{"-F", "-e", "-v", "--no-caps", "-f", file, "-R", filepath.Join(dir, "persist"), "-p", filepath.Join(dir, "pid"), "-c", filepath.Join(dir, "ctl")}
	root := filepath.Join(os.Getenv("LOKI_GO_TOOLS"), "syslog-ng")
	unpacked := filepath.Join(root, "usr/sbin/syslog-ng")
	if !isFile(unpacked) {
		run(t, exec.Command(binary(t, "syslog-ng"), args...))
		return devLog(t, socket)
	}
	modules, err := filepath.Glob(filepath.Join(root, "usr/lib/syslog-ng/*/libafsocket.so"))
	if err != nil || len(modules) != 1 {
		t.Fatalf("modules of syslog-ng in %s: %q, %v", root, modules, err)
	}
	cmd := exec.Command(unpacked, append(args, "--module-path="+filepath.Dir(modules[0]))...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(root, "usr/lib/syslog-ng"))
	run(t, cmd)
	return devLog(t, socket)
}

func TestSyslogNG(t *testing.T) {
	const n = 300
	f := func(name, transport, format, destination string, extra ...string) {
		t.Run(name, func(t *testing.T) {
			r, certs := openAll(t)
			addr := map[string]net.Addr{"tcp": r.TCPAddr(), "tls": r.TLSAddr(), "udp": r.UDPAddr()}[transport]
			security := ""
			if transport == "tls" {
				security = fmt.Sprintf(`tls(ca-file(%q) cert-file(%q) key-file(%q) peer-verify(required-trusted))`, certs.CA, certs.ClientCert, certs.ClientKey)
			}
			logLines(t, startSyslogNG(t, fmt.Sprintf(`%s("localhost" ip-protocol(4) port(%s) transport(%q) %s);`, destination, port(addr), transport, security)), 0, n)
			got := r.sink.await(t, n)
			checkLines(t, got, n, "", extra...)
			if format == "rfc5424" && got[0].meta["sd_meta_sequenceId"] == "" {
				t.Fatalf("no structured data in %s", got[0])
			}
			r.expectValue(t, "messages_total", transport, n)
			r.expectValue(t, "messages_total", format, n)
			r.expectValue(t, "framing_errors_total", "", 0)
		})
	}
	f("network tcp", "tcp", "rfc3164", "network")
	f("network udp", "udp", "rfc3164", "network")
	f("network tls", "tls", "rfc3164", "network")
	f("syslog tcp", "tcp", "rfc5424", "syslog")
	f("syslog udp", "udp", "rfc5424", "syslog")
	f("syslog tls", "tls", "rfc5424", "syslog")
}

func TestSyslogNGSurvivesRestarts(t *testing.T) {
	testRestarts(t, func(t *testing.T, addr string) net.Conn {
		_, port, _ := net.SplitHostPort(addr)
		return startSyslogNG(t, fmt.Sprintf(`syslog("127.0.0.1" port(%s) transport("tcp"));`, port))
	})
}

// --- examples ---------------------------------------------------------------------

// example returns a copy of an example's configuration that sends to addr and
// keeps its files in dir.
func example(t *testing.T, name, was, dir string, addr net.Addr) string {
	t.Helper()
	p, err := os.ReadFile(filepath.Join("../../examples", name))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{was + "/log", "1514"} {
		if !strings.Contains(string(p), want) {
			t.Fatalf("%s has no %s", name, want)
		}
	}
	file := filepath.Join(dir, filepath.Base(name))
	text := strings.NewReplacer(was, dir, "1514", port(addr)).Replace(string(p))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestExamples(t *testing.T) {
	f := func(name string, start func(t *testing.T, dir string, addr net.Addr) net.Conn) {
		t.Run(name, func(t *testing.T) {
			r := openRig(t, &fakeSink{}, nil)
			c := start(t, t.TempDir(), r.TCPAddr())
			const n = 100
			logLines(t, c, 0, n)
			for i, e := range r.sink.await(t, n) {
				if e.line != text(i) || e.labels != `{job="syslog", service_name="prog"}` || e.meta["proc_id"] != "4711" {
					t.Fatalf("entry %d: %s", i, e)
				}
			}
			r.expectValue(t, "messages_total", "rfc5424", n)
		})
	}
	f("rsyslog", func(t *testing.T, dir string, addr net.Addr) net.Conn {
		file := example(t, "rsyslog/rsyslog.conf", "/tmp/loki-go-rsyslog", dir, addr)
		run(t, exec.Command(binary(t, "rsyslogd"), "-n", "-f", file, "-i", filepath.Join(dir, "pid")))
		return devLog(t, filepath.Join(dir, "log"))
	})
	f("syslog-ng", func(t *testing.T, dir string, addr net.Addr) net.Conn {
		return runSyslogNG(t, dir, example(t, "syslog-ng/syslog-ng.conf", "/tmp/loki-go-syslog-ng", dir, addr))
	})
}

// --- logger ---------------------------------------------------------------------

func TestLogger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r := openRig(t, &fakeSink{}, func(c *Config) { c.ListenUDP, c.ListenUnix = "127.0.0.1:0", path })
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := strings.Cut(hostname, ".")
	tcp, udp, unix := []string{"-n", "127.0.0.1", "-T", "-P", port(r.TCPAddr())}, []string{"-n", "127.0.0.1", "-d", "-P", port(r.UDPAddr())}, []string{"-u", path}
	n := 0
	f := func(where []string, stdin string, want []string, args ...string) {
		t.Helper()
		cmd := exec.Command(binary(t, "logger"), slices.Concat(where, args)...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("logger: %v\n%s", err, out)
		}
		got := r.sink.await(t, n+len(want))[n:]
		n += len(got)
		var lines []string
		for _, e := range got {
			delete(e.meta, "sd_timeQuality_isSynced")
			delete(e.meta, "sd_timeQuality_syncAccuracy")
			delete(e.meta, "connection_ip_address")
			if d := time.Since(time.Unix(0, e.ts)); d < -2*time.Second || d > time.Minute {
				t.Fatalf("the time of %s is %s ago", e, d)
			}
			lines = append(lines, strings.ReplaceAll(e.String(), fmt.Sprintf("hostname=%q", host), "H"))
		}
		if !slices.Equal(lines, want) {
			t.Fatalf("logger %q:\n got %s\nwant %s", args, strings.Join(lines, "\n     "), strings.Join(want, "\n     "))
		}
	}
	const bsd = `{job="syslog", service_name="app"} "hi" app_name="app" facility="auth" H level="error" proc_id="7" severity="error"`
	const quality = ` sd_timeQuality_tzKnown="1"`
	rfc := func(line string) string {
		return fmt.Sprintf(`{job="syslog", service_name="app"} %q app_name="app" facility="auth" H level="error" proc_id="7"%s severity="error"`, line, quality)
	}
	common := []string{"-p", "auth.err", "-t", "app", "--id=7"}
	for _, where := range [][]string{tcp, udp} {
		f(where, "", []string{bsd}, append(common, "--rfc3164", "hi")...)
		f(where, "", []string{rfc("hi")}, append(common, "--rfc5424", "hi")...)
		f(where, "", []string{`{job="syslog", service_name="app"} "hi" app_name="app" facility="user" level="info" severity="notice"`}, "-t", "app", "--rfc5424=notime,notq,nohost", "hi")
	}
	f(tcp, "one\n  two\n\nthree", []string{rfc("one"), rfc("  two"), rfc(""), rfc("three")}, append(common, "--rfc5424")...)
	f(tcp, "one\n  two\nthree\n", []string{rfc("one"), rfc("  two"), rfc("three")}, append(common, "--rfc5424", "--octet-count")...)
	f(tcp, "", []string{bsd}, append(common, "--rfc3164", "--octet-count", "hi")...)
	f(tcp, "", []string{`{job="syslog", service_name="app"} "hi" app_name="app" facility="user" H level="info" msg_id="ID47" ` +
		`sd_exampleSDID_32473_iut="3" sd_exampleSDID_32473_q="a\"b]"` + quality + ` severity="notice"`},
		"-t", "app", "--rfc5424", "--octet-count", "--msgid", "ID47", "--sd-id", "exampleSDID@32473", "--sd-param", `iut="3"`, "--sd-param", `q="a\"b\]"`, "hi")
	f(unix, "", []string{`{job="syslog", service_name="app"} "hi" app_name="app" facility="auth" level="error" proc_id="7" severity="error"`}, append(common, "hi")...)
	if r.value(t, "framing_errors_total", "") != 0 {
		t.Fatal("framing errors")
	}
}
