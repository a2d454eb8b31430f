package flush

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/loki-go/loki-go/plugins/grpcpush/pushclient"
)

// httpPort is the port on which Loki and loki-go speak HTTP. A section that
// names it was written for another output.
const httpPort = "3100"

// endpoints is what the list of addresses says.
type endpoints struct {
	addresses []string      // HOST:PORT
	scheme    string        // http, https; empty: none is given
	user      *url.Userinfo // nil: none
}

// parseEndpoints reads a comma list of HOST:PORT or of URLs. A path says
// nothing here: other outputs need one.
func parseEndpoints(v string) (endpoints, error) {
	var e endpoints
	items, err := list(v)
	if err != nil {
		return e, err
	}
	var errs []error
	for i, item := range items {
		one, err := parseEndpoint(item)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case i > 0 && len(errs) == 0 && (one.scheme != e.scheme || (one.user == nil) != (e.user == nil) || one.user != nil && *one.user != *e.user):
			errs = append(errs, errors.New("all must have the same scheme and the same user, or none"))
		case slices.Contains(e.addresses, one.addresses[0]):
			errs = append(errs, fmt.Errorf("%q is there twice", one.addresses[0]))
		}
		e.addresses = append(e.addresses, one.addresses...)
		e.scheme, e.user = one.scheme, one.user
	}
	return e, errors.Join(errs...)
}

func parseEndpoint(item string) (endpoints, error) {
	e := endpoints{addresses: []string{item}}
	if strings.Contains(item, "://") {
		u, err := url.Parse(item)
		var perr *url.Error
		switch {
		case errors.As(err, &perr): // its own text has the whole URL, with the password
			return e, fmt.Errorf("not a URL: %w", perr.Err)
		case err != nil:
			return e, fmt.Errorf("not a URL: %w", err)
		case u.Scheme != "http" && u.Scheme != "https":
			return e, fmt.Errorf("%q: want http:// (gRPC without TLS) or https:// (with TLS)", u.Redacted())
		case u.Port() == "":
			return e, fmt.Errorf("%q: name the port, 9095 by default", u.Redacted())
		}
		e = endpoints{addresses: []string{u.Host}, scheme: u.Scheme, user: u.User}
	}
	if err := pushclient.CheckAddress(e.addresses[0]); err != nil {
		return e, err
	}
	if host, port, _ := net.SplitHostPort(e.addresses[0]); port == httpPort {
		return e, fmt.Errorf("%s is the port for HTTP; this output speaks gRPC, write %s (9095 by default)",
			e.addresses[0], net.JoinHostPort(host, "9095"))
	}
	return e, nil
}
