// Package chromium drives a real Chromium without a window, for tests of pages.
//
// The browser is spoken to in the DevTools protocol over two pipes: JSON
// messages, each ended by a zero byte, on its file descriptors 3 and 4
// (--remote-debugging-pipe). So there is no port that others could reach, and
// no WebSocket to be had for it.
package chromium

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long the browser may take for anything. It bounds a hang,
// not a duration that matters.
const patience = 60 * time.Second

// Browser is a running Chromium. It ends with the test.
type Browser struct {
	t   testing.TB
	in  *os.File // to the browser
	out *os.File
	cmd *exec.Cmd

	mu      sync.Mutex
	last    int
	calls   map[int]chan reply
	noted   map[string][]string // by session
	failure error
	printed bytes.Buffer
}

type reply struct {
	result json.RawMessage
	err    error
}

type message struct {
	ID        int             `json:"id,omitempty"`
	Session   string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Exception *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// program returns the browser's path. CHROMIUM names another than that in PATH.
func program(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("CHROMIUM"); p != "" {
		return p
	}
	p, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("no Chromium: install Debian's package chromium (make clients), or name one in CHROMIUM: %v", err)
	}
	return p
}

// Start starts a browser with a profile of its own. It reaches nothing but
// this machine.
func Start(t testing.TB) *Browser {
	t.Helper()
	fromTest, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, toTest, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b := &Browser{t: t, in: in, out: out, calls: map[int]chan reply{}, noted: map[string][]string{}}
	b.cmd = exec.Command(program(t),
		"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio",
		"--no-first-run", "--disable-extensions", "--disable-sync", "--disable-background-networking", "--disable-component-update",
		"--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--no-proxy-server",
		"--user-data-dir="+t.TempDir(), "--window-size=1280,900", "--remote-debugging-pipe", "about:blank")
	b.cmd.ExtraFiles = []*os.File{fromTest, toTest}
	b.cmd.Stdout, b.cmd.Stderr = (*printed)(b), (*printed)(b)
	// A group of its own, so that none of its processes outlives the test, which
	// would keep it from removing the profile.
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fromTest.Close()
	toTest.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.read()
	}()
	t.Cleanup(func() {
		// Asked to close, it leaves its profile alone before it ends.
		_, _ = b.call("", "Browser.close", nil)
		in.Close()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = b.cmd.Wait() // its exit code says nothing
		}()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
		}
		_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // what is left of it
		<-ended
		out.Close()
		<-done
		if t.Failed() {
			b.mu.Lock()
			defer b.mu.Unlock()
			t.Logf("Chromium printed:\n%s", b.printed.String())
		}
	})
	return b
}

type printed Browser

func (p *printed) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// What it has to say of a desktop that is not there helps nobody.
	if p.printed.Len() < 1<<14 && !bytes.Contains(text, []byte("dbus/")) {
		p.printed.Write(text)
	}
	return len(text), nil
}

// read hands out messages until the browser closes its end.
func (b *Browser) read() {
	r := bufio.NewReaderSize(b.out, 1<<20)
	var err error
	for err == nil {
		var text []byte
		if text, err = r.ReadBytes(0); err == nil {
			err = b.receive(text[:len(text)-1])
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failure = fmt.Errorf("chromium is gone: %w", err)
	for id, c := range b.calls {
		c <- reply{err: b.failure}
		delete(b.calls, id)
	}
}

func (b *Browser) receive(text []byte) error {
	var m message
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.ID == 0 {
		b.note(&m)
		return nil
	}
	c := b.calls[m.ID]
	delete(b.calls, m.ID)
	if c == nil {
		return nil // given up
	}
	if m.Exception != nil {
		c <- reply{err: errors.New(m.Exception.Message)}
	} else {
		c <- reply{result: m.Result}
	}
	return nil
}

func (b *Browser) call(session, method string, params any) (json.RawMessage, error) {
	raw, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	if b.failure != nil {
		defer b.mu.Unlock()
		return nil, b.failure
	}
	b.last++
	id, c := b.last, make(chan reply, 1)
	b.calls[id] = c
	text, err := json.Marshal(message{ID: id, Session: session, Method: method, Params: raw})
	if err == nil {
		_, err = b.in.Write(append(text, 0))
	}
	b.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	select {
	case r := <-c:
		if r.err != nil {
			return nil, fmt.Errorf("%s: %w", method, r.err)
		}
		return r.result, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("%s: no answer", method)
	}
}

// Page is a tab. Its methods end the test when they fail. It is for one
// goroutine.
type Page struct {
	t       testing.TB
	b       *Browser
	session string
	context string // which it shares with no other page
}

// For returns the same page for a test within the test.
func (p *Page) For(t testing.TB) *Page { return &Page{t, p.b, p.session, p.context} }

// note keeps what a page should not have: exceptions, errors in the console,
// breaches of its policy.
func (b *Browser) note(m *message) {
	note := func(text string) { b.noted[m.Session] = append(b.noted[m.Session], text) }
	switch m.Method {
	case "Runtime.exceptionThrown":
		note("exception: " + string(m.Params))
	case "Log.entryAdded":
		var e struct {
			Entry struct{ Source, Level, Text, URL string }
		}
		if json.Unmarshal(m.Params, &e) == nil && e.Entry.Level == "error" {
			note(e.Entry.Source + ": " + e.Entry.Text + " " + e.Entry.URL)
		}
	case "Runtime.consoleAPICalled":
		var e struct{ Type string }
		if json.Unmarshal(m.Params, &e) == nil && (e.Type == "error" || e.Type == "assert") {
			note("console: " + string(m.Params))
		}
	}
}

// Open opens url in a new tab, which shares nothing with others, and waits until
// it is loaded. header, which may be nil, goes with every request.
func (b *Browser) Open(url string, header map[string]string) *Page {
	b.t.Helper()
	var made struct{ BrowserContextID, TargetID, SessionID string }
	b.must("", "Target.createBrowserContext", nil, &made)
	b.must("", "Target.createTarget", map[string]any{"url": "about:blank", "browserContextId": made.BrowserContextID, "width": 1280, "height": 900}, &made)
	b.must("", "Target.attachToTarget", map[string]any{"targetId": made.TargetID, "flatten": true}, &made)
	p := &Page{t: b.t, b: b, session: made.SessionID, context: made.BrowserContextID}
	for _, domain := range []string{"Runtime", "Log", "Page", "Network"} {
		p.Call(domain+".enable", nil, nil)
	}
	if header != nil {
		p.Call("Network.setExtraHTTPHeaders", map[string]any{"headers": header}, nil)
	}
	p.Go(url)
	return p
}

func (b *Browser) must(session, method string, params, result any) {
	b.t.Helper()
	raw, err := b.call(session, method, params)
	if err == nil && result != nil {
		err = json.Unmarshal(raw, result)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// Call runs a method of the protocol in the page.
func (p *Page) Call(method string, params, result any) {
	p.t.Helper()
	p.b.must(p.session, method, params, result)
}

// Go loads url in place of what is there.
func (p *Page) Go(url string) {
	p.t.Helper()
	var r struct{ ErrorText string }
	p.Call("Page.navigate", map[string]any{"url": url}, &r)
	if r.ErrorText != "" {
		p.t.Fatalf("%s: %s", url, r.ErrorText)
	}
	p.Wait("location.href !== 'about:blank' && document.readyState === 'complete'")
}

// Noted returns the errors that the page has made since the last call.
func (p *Page) Noted() []string {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	list := p.b.noted[p.session]
	delete(p.b.noted, p.session)
	return list
}

// Eval stores the value of a JavaScript expression, or of the promise that it
// is, in result.
func (p *Page) Eval(expression string, result any) {
	p.t.Helper()
	if err := p.eval(expression, result); err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
}

func (p *Page) eval(expression string, result any) error {
	raw, err := p.b.call(p.session, "Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true})
	if err != nil {
		return err
	}
	var r struct {
		Result struct {
			Value json.RawMessage
		}
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	if e := r.ExceptionDetails; e != nil {
		return fmt.Errorf("%s %s", e.Text, e.Exception.Description)
	}
	if result == nil {
		return nil
	}
	if r.Result.Value == nil {
		return errors.New("undefined")
	}
	return json.Unmarshal(r.Result.Value, result)
}

// Text returns the value of an expression that is a string.
func (p *Page) Text(expression string) string {
	p.t.Helper()
	var s string
	p.Eval("String("+expression+")", &s)
	return s
}

// Wait waits until a JavaScript expression is true.
func (p *Page) Wait(expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		var ok bool
		err := p.eval("Boolean("+expression+")", &ok)
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("never true: %s (%v); the page says:\n%s\n%s", expression, err, p.Text("document.body.innerText"), strings.Join(p.Noted(), "\n"))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var keyCodes = map[string]int{"Enter": 13, "Escape": 27, "Tab": 9, "Backspace": 8, " ": 32}

// Key presses a key as a person does: "j", "Enter", "Control+Enter".
func (p *Page) Key(name string) {
	p.t.Helper()
	modifiers := 0
	if rest, ok := strings.CutPrefix(name, "Control+"); ok {
		name, modifiers = rest, 2
	}
	params := map[string]any{"type": "keyDown", "key": name, "modifiers": modifiers, "windowsVirtualKeyCode": keyCodes[name]}
	switch {
	case modifiers != 0 || name == "Escape" || name == "Tab" || name == "Backspace":
	case name == "Enter":
		params["text"] = "\r"
	default:
		params["text"] = name
	}
	p.Call("Input.dispatchKeyEvent", params, nil)
	params["type"] = "keyUp"
	delete(params, "text")
	p.Call("Input.dispatchKeyEvent", params, nil)
}

// Type enters text where the focus is.
func (p *Page) Type(text string) {
	p.t.Helper()
	p.Call("Input.insertText", map[string]any{"text": text}, nil)
}

// Click clicks on the middle of the first element that selector finds, with the
// mouse.
func (p *Page) Click(selector string) {
	p.t.Helper()
	var at [2]float64
	p.Eval(fmt.Sprintf(`(() => { const e = document.querySelector(%q); e.scrollIntoView({block: "center", behavior: "instant"});
		const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()`, selector), &at)
	p.mouse("mousePressed", at[0], at[1])
	p.mouse("mouseReleased", at[0], at[1])
}

// Drag moves the pressed mouse from one point to another.
func (p *Page) Drag(x1, y1, x2, y2 float64) {
	p.t.Helper()
	p.mouse("mousePressed", x1, y1)
	p.mouse("mouseMoved", (x1+x2)/2, (y1+y2)/2)
	p.mouse("mouseMoved", x2, y2)
	p.mouse("mouseReleased", x2, y2)
}

func (p *Page) mouse(kind string, x, y float64) {
	p.t.Helper()
	params := map[string]any{"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
	if kind == "mouseReleased" {
		params["buttons"] = 0
	}
	p.Call("Input.dispatchMouseEvent", params, nil)
}

// Downloads makes the page put downloads into dir.
func (p *Page) Downloads(dir string) {
	p.t.Helper()
	p.b.must("", "Browser.setDownloadBehavior", map[string]any{"behavior": "allow", "downloadPath": dir, "browserContextId": p.context}, nil)
}

// Prefer sets what the system likes, such as prefers-color-scheme: dark.
func (p *Page) Prefer(features map[string]string) {
	p.t.Helper()
	var list []map[string]string
	for k, v := range features {
		list = append(list, map[string]string{"name": k, "value": v})
	}
	p.Call("Emulation.setEmulatedMedia", map[string]any{"features": list}, nil)
}

// Screenshot returns what the window shows.
func (p *Page) Screenshot() image.Image {
	p.t.Helper()
	var r struct{ Data string }
	p.Call("Page.captureScreenshot", map[string]any{"format": "png"}, &r)
	raw, err := base64.StdEncoding.DecodeString(r.Data)
	if err != nil {
		p.t.Fatal(err)
	}
	if dir := os.Getenv("SCREENSHOTS"); dir != "" {
		if err := os.WriteFile(fmt.Sprintf("%s/%s-%d.png", dir, strings.ReplaceAll(p.t.Name(), "/", "-"), time.Now().UnixNano()), raw, 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		p.t.Fatal(err)
	}
	return img
}
