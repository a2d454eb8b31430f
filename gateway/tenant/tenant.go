// Package tenant decides whose data a request is about.
package tenant

import "github.com/loki-go/loki-go/proto/push"

// Header names the tenant in HTTP requests and, in lower case, in gRPC
// metadata.
const Header = "X-Scope-OrgID"

// Fake is the tenant of everything when authentication is off.
const Fake = "fake"

// maxLen is Loki's limit in bytes. Tenants are path segments in object keys.
const maxLen = 150

// Resolve returns the tenant of a request that came with the id. With
// authentication off that is Fake, whatever the request says. Errors are
// *push.Error with the reason NoTenant or InvalidTenant and Loki's texts.
func Resolve(auth bool, id string) (string, error) {
	if !auth {
		return Fake, nil
	}
	if err := check(id); err != nil {
		return "", err
	}
	return id, nil
}

func check(id string) error {
	if id == "" {
		return push.Errorf(push.NoTenant, "no org id")
	}
	for _, c := range id {
		if !supported(c) {
			return push.Errorf(push.InvalidTenant, "tenant ID '%s' contains unsupported character '%c'", clip(id), c)
		}
	}
	if len(id) > maxLen {
		return push.Errorf(push.InvalidTenant, "tenant ID is too long: max %d characters", maxLen)
	}
	if id == "." || id == ".." {
		return push.Errorf(push.InvalidTenant, "tenant ID is '.' or '..'")
	}
	return nil
}

func supported(c rune) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	switch c {
	case '!', '-', '_', '.', '*', '\'', '(', ')':
		return true
	}
	return false
}

// clip keeps a hostile header out of answers and logs.
func clip(id string) string {
	if len(id) > maxLen {
		return id[:maxLen] + "..."
	}
	return id
}
