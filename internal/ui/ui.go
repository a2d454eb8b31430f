// Package ui serves the page at /ui: an explorer of logs for people without
// Grafana.
//
// The page is made of the files in the folder page, as they are: there is no
// build step, nothing is fetched from elsewhere, and no state is kept on the
// server. It talks to the query API and to /metrics of the process that serves
// it, by addresses relative to its own, so that it works behind a proxy that
// puts a path in front of it.
//
// The page shows text that strangers have logged. What keeps that from being
// code is the page itself, which makes text nodes only, and behind it the
// policy that goes with every answer: scripts come from here and are not
// inline, and the functions that make HTML of strings are refused by the browser.
package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed page
var page embed.FS

// policy is what a browser may do with what comes from here.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// asset is a file of the page, in both forms in which it is sent.
type asset struct {
	contentType string
	plain, gzip []byte
	hash        string // of plain
}

// Handler serves the page. It is safe for concurrent use.
type Handler struct {
	assets map[string]*asset // by path below /ui/; "" is the page
}

// New returns a handler.
func New() (*Handler, error) {
	h := &Handler{assets: map[string]*asset{}}
	files, err := fs.ReadDir(page, "page")
	if err != nil {
		return nil, fmt.Errorf("ui: %w", err)
	}
	for _, f := range files {
		a, err := load(f.Name())
		if err != nil {
			return nil, fmt.Errorf("ui: %w", err)
		}
		h.assets[f.Name()] = a
	}
	h.assets[""] = h.assets["index.html"]
	return h, nil
}

func load(name string) (*asset, error) {
	data, err := page.ReadFile("page/" + name)
	if err != nil {
		return nil, err
	}
	a := &asset{contentType: contentTypes[path.Ext(name)], plain: data}
	if a.contentType == "" {
		return nil, fmt.Errorf("%s: no content type is known for it", name)
	}
	sum := sha256.Sum256(data)
	a.hash = hex.EncodeToString(sum[:8])
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	a.gzip = out.Bytes()
	return a, nil
}

// Register adds the routes to mux.
func (h *Handler) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /ui", redirect)
	mux.Handle("GET /ui/", h)
}

// redirect answers with a relative address: only the browser knows what path
// proxies have put in front.
func redirect(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Location", "ui/")
	w.WriteHeader(http.StatusPermanentRedirect)
}

// ServeHTTP serves the files of the page below /ui/.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	a := h.assets[strings.TrimPrefix(r.URL.Path, "/ui/")]
	if a == nil {
		http.Error(w, "no such file; the page is at /ui/", http.StatusNotFound)
		return
	}
	body, tag := a.plain, a.hash
	if acceptsGzip(r.Header) {
		header.Set("Content-Encoding", "gzip")
		body, tag = a.gzip, a.hash+"-gzip"
	}
	header.Set("Content-Type", a.contentType)
	header.Set("ETag", `"`+tag+`"`)
	// A page and scripts of two versions must not meet: ask every time.
	header.Set("Cache-Control", "no-cache")
	header.Set("Vary", "Accept-Encoding")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// acceptsGzip reports whether the client takes gzip. A weight of 0 is a no.
func acceptsGzip(h http.Header) bool {
	for _, v := range h.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(v, ",") {
			name, weight, _ := strings.Cut(part, ";")
			if strings.TrimSpace(name) != "gzip" {
				continue
			}
			q, isWeight := strings.CutPrefix(strings.ReplaceAll(weight, " ", ""), "q=")
			return !isWeight || strings.Trim(q, "0.") != ""
		}
	}
	return false
}
