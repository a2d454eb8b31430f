package query

import (
	"net/http"
	"strings"
	"testing"
)

// TestTailOrigin: programs and pages from here follow lines, pages from
// elsewhere do not.
func TestTailOrigin(t *testing.T) {
	_, base := tailServer(t, &growing{})
	host := strings.TrimPrefix(base, "http://")
	f := func(want int, header ...string) {
		t.Helper()
		if _, resp := dialTail(t, base, "query=%7Ba%3D%22b%22%7D", header...); resp.StatusCode != want {
			t.Errorf("%q: status %d, want %d", header, resp.StatusCode, want)
		}
	}
	f(http.StatusSwitchingProtocols)
	f(http.StatusSwitchingProtocols, "Origin: http://"+host)
	f(http.StatusSwitchingProtocols, "Origin: https://logs.example", "Sec-Fetch-Site: same-origin")
	f(http.StatusForbidden, "Origin: http://evil.example")
	f(http.StatusForbidden, "Origin: null")
	f(http.StatusForbidden, "Origin: http://"+host, "Sec-Fetch-Site: cross-site")
	f(http.StatusForbidden, "Origin: http://other.example", "Sec-Fetch-Site: same-site")
}
