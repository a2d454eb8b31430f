package ui

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"
)

func newServer(t *testing.T) *httptest.Server {
	t.Helper()
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	h.Register(mux)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// get sends exactly the headers given and follows nothing.
func get(t *testing.T, method, url string, header map[string]string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	c := &http.Client{
		Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestAssets(t *testing.T) {
	s := newServer(t)
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for name, a := range h.assets {
		if name != "" {
			total += len(a.plain)
		}
		plain, body := get(t, "GET", s.URL+"/ui/"+name, nil)
		if plain.StatusCode != 200 || body != string(a.plain) || plain.Header.Get("Content-Encoding") != "" {
			t.Errorf("%q: status %d, %d bytes, encoding %q", name, plain.StatusCode, len(body), plain.Header.Get("Content-Encoding"))
		}
		if got := plain.Header.Get("Content-Type"); got != a.contentType || got == "" {
			t.Errorf("%q: content type %q", name, got)
		}
		packed, body := get(t, "GET", s.URL+"/ui/"+name, map[string]string{"Accept-Encoding": "br, gzip;q=0.8"})
		if packed.Header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%q: not gzip: %v", name, packed.Header)
		}
		r, err := gzip.NewReader(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != string(a.plain) {
			t.Errorf("%q: gzip holds something else, %v", name, err)
		}
		if plain.Header.Get("ETag") == packed.Header.Get("ETag") {
			t.Errorf("%q: two forms under one tag", name)
		}
		for _, resp := range []*http.Response{plain, packed} {
			if resp.Header.Get("Vary") != "Accept-Encoding" || resp.Header.Get("Cache-Control") != "no-cache" {
				t.Errorf("%q: a cache would mix things up: %v", name, resp.Header)
			}
		}
		head, body := get(t, "HEAD", s.URL+"/ui/"+name, nil)
		if head.StatusCode != 200 || body != "" || head.ContentLength != int64(len(a.plain)) {
			t.Errorf("%q: HEAD: %d, length %d", name, head.StatusCode, head.ContentLength)
		}
	}
	if total > 150<<10 {
		t.Errorf("the page takes %d bytes, at most 150 KiB are wanted", total)
	}
}

func TestETag(t *testing.T) {
	s := newServer(t)
	for _, encoding := range []string{"", "gzip"} {
		header := map[string]string{"Accept-Encoding": encoding}
		resp, _ := get(t, "GET", s.URL+"/ui/app.js", header)
		tag := resp.Header.Get("ETag")
		if !regexp.MustCompile(`^"[0-9a-f]{16}(-gzip)?"$`).MatchString(tag) {
			t.Fatalf("tag %s", tag)
		}
		header["If-None-Match"] = tag
		resp, body := get(t, "GET", s.URL+"/ui/app.js", header)
		if resp.StatusCode != http.StatusNotModified || body != "" {
			t.Errorf("%q: status %d for the same tag", encoding, resp.StatusCode)
		}
		if resp.Header.Get("Content-Security-Policy") == "" {
			t.Error("a 304 without the policy")
		}
		header["If-None-Match"] = `"0123456789abcdef"`
		if resp, _ := get(t, "GET", s.URL+"/ui/app.js", header); resp.StatusCode != http.StatusOK {
			t.Errorf("%q: status %d for another tag", encoding, resp.StatusCode)
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	s := newServer(t)
	for _, p := range []string{"/ui/", "/ui/app.js", "/ui/nowhere"} {
		resp, _ := get(t, "GET", s.URL+p, nil)
		csp := resp.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "base-uri 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: policy lacks %s: %s", p, want, csp)
			}
		}
		for _, bad := range []string{"unsafe", "*", "http", "data:"} {
			if strings.Contains(csp, bad) {
				t.Errorf("%s: policy has %s: %s", p, bad, csp)
			}
		}
		for k, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"} {
			if got := resp.Header.Get(k); got != want {
				t.Errorf("%s: %s is %q", p, k, got)
			}
		}
	}
}

// TestRedirect: behind a proxy that strips a path, only a relative address leads
// to the page.
func TestRedirect(t *testing.T) {
	s := newServer(t)
	resp, _ := get(t, "GET", s.URL+"/ui", nil)
	if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusPermanentRedirect || got != "ui/" {
		t.Errorf("status %d to %q", resp.StatusCode, got)
	}
	outer := http.NewServeMux()
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	inner := http.NewServeMux()
	h.Register(inner)
	outer.Handle("/logs/eu/", http.StripPrefix("/logs/eu", inner))
	proxy := httptest.NewServer(outer)
	defer proxy.Close()
	final, err := proxy.Client().Get(proxy.URL + "/logs/eu/ui")
	if err != nil {
		t.Fatal(err)
	}
	defer final.Body.Close()
	body, err := io.ReadAll(final.Body)
	if err != nil || final.StatusCode != 200 || final.Request.URL.Path != "/logs/eu/ui/" || !strings.Contains(string(body), "<title>loki-go") {
		t.Errorf("a prefix leads to %s, status %d, %v", final.Request.URL.Path, final.StatusCode, err)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	s := newServer(t)
	for p, want := range map[string]int{
		"/ui/nowhere": 404, "/ui/page/app.js": 404, "/ui/ui.go": 404, "/ui/app.js/": 404, "/ui/%2e%2e/ui.go": 404,
		"/ui/..%2fui.go": 404, "/ui/.%00": 404, "/uix": 404, `/ui/..\ui.go`: 404, "/ui/APP.JS": 404,
	} {
		resp, body := get(t, "GET", s.URL+p, nil)
		if resp.StatusCode != want && resp.StatusCode/100 != 3 || strings.Contains(body, "package ui") {
			t.Errorf("%s: status %d: %s", p, resp.StatusCode, body)
		}
	}
	if resp, _ := get(t, "POST", s.URL+"/ui/", nil); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", resp.StatusCode)
	}
}

func TestAcceptsGzip(t *testing.T) {
	for v, want := range map[string]bool{
		"": false, "gzip": true, "br,gzip": true, "gzip;q=0": false, "gzip; q=0.000": false, "gzip;q=0.1": true,
		"identity": false, "x-gzip": false, "deflate , gzip ; q=1": true,
	} {
		if got := acceptsGzip(http.Header{"Accept-Encoding": {v}}); got != want {
			t.Errorf("%q: %v", v, got)
		}
	}
}

// TestNothingFromElsewhere: the page names no other host, runs nothing inline
// and makes no HTML of text.
func TestNothingFromElsewhere(t *testing.T) {
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	other := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9-]+\.[a-z]|@import|(?-i:url\()|<script(>|[^>]*[^>]>[^<])|<style|\sstyle=|\son[a-z]+="|javascript:`)
	sinks := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser|createContextualFragment`)
	modules := regexp.MustCompile(`from "\./([a-z]+\.js)"|(?:src|href)="([a-z]+\.[a-z]+)"`)
	for name, a := range h.assets {
		text := string(a.plain)
		if path.Ext(name) != ".svg" { // an XML namespace looks like an address
			text = strings.ReplaceAll(text, "http://www.w3.org/2000/svg", "")
			if m := other.FindString(text); m != "" {
				t.Errorf("%s has %q", name, m)
			}
		}
		if m := sinks.FindString(text); m != "" {
			t.Errorf("%s has %q", name, m)
		}
		for _, m := range modules.FindAllStringSubmatch(text, -1) {
			if f := m[1] + m[2]; h.assets[f] == nil {
				t.Errorf("%s needs %s, which is not there", name, f)
			}
		}
	}
}
