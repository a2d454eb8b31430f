// Package tenant decides whose data a request is about.
package tenant

import "github.com/loki-go/loki-go/proto/push"

// Header names the tenant in HTTP requests and, in lower case, in gRPC
// metadata.
const Header = "X-Scope-OrgID"

// Fake is the tenant of everything when authentication is off.
const Fake = "fake"

// Resolve returns the tenant of a request that came with the id. With
// authentication off that is Fake, whatever the request says. Errors are
// *push.Error with the reason NoTenant or InvalidTenant and Loki's texts.
func Resolve(auth bool, id string) (string, error) {
	if !auth {
		return Fake, nil
	}
	if err := push.CheckTenant(id); err != nil {
		return "", err
	}
	return id, nil
}
