package auth

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// readTest stands in for the files that a users file refers to.
func readTest(name string) ([]byte, error) {
	switch name {
	case "ops.password":
		return []byte("secret\r\n"), nil
	case "long":
		return make([]byte, maxSecret+1), nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func TestParse(t *testing.T) {
	d, err := parse([]byte(users), readTest)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.users) != 3 || len(d.tokens) != 2 {
		t.Fatalf("%d users, %d tokens", len(d.users), len(d.tokens))
	}
	if got := d.users["ops"]; got.Name != "ops" || strings.Join(got.tenants, " ") != "ops shop" || got.all || got.plain != digest(sum("secret")) {
		t.Errorf("ops: %+v", got)
	}
	if got := d.users["admin"]; !got.all || len(got.tenants) != 0 || !got.May("x") {
		t.Errorf("admin: %+v", got)
	}
	if got := d.tokens[digest(sum(apiToken))]; got.Name != "api" || !got.May("shop") || got.May("ops") || got.May("") {
		t.Errorf("api: %+v", got)
	}
	for _, empty := range []string{"", "users:\ntokens:\n", "{}", "# nothing"} {
		if d, err := parse([]byte(empty), readTest); err != nil || len(d.users)+len(d.tokens) != 0 {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string][]string{
		"users: [":                             {"line 1"},
		"user: []":                             {"field user not found"},
		"users: [{name: a, pass: b}]":          {"field pass not found"},
		"{}\n---\n{}":                          {"more than one document"},
		"users: [{password: b, tenants: [c]}]": {"users[0]: name must be given"},
		"users: [{name: 'a:b', password: b}]":  {"users[0]: name must be given, without a colon"},
		"users: [{name: a, tenants: [c]}]":     {"users[0] a: must have one of password, "},
		"users: [{name: a, password: b}]":      {"users[0] a: tenants must name at least one"},
		"tokens: [{token: b, tenants: [c]}]":   {"tokens[0]: name must be given"},
		"tokens: [{name: a, tenants: [c]}]":    {"tokens[0] a: must have one of token, "},
		"users: [{name: a, password: s3cret, password-hash: x, tenants: [c]}]":             {"must have one of password"},
		"users: [{name: a, password: b, tenants: [c/d]}]":                                  {"contains unsupported character '/'"},
		"users: [{name: a, password: b, tenants: ['']}]":                                   {"no org id"},
		"users: [{name: a, password-hash: plain, tenants: [c]}]":                           {"must be one of bcrypt, with a cost of 14"},
		"users: [{name: a, password-hash: $2y$31$" + shopHash[7:] + ", tenants: [c]}]":     {"must be one of bcrypt"},
		"users: [{name: a, password-file: none, tenants: [c]}]":                            {"users[0] a: open none"},
		"users: [{name: a, password-file: long, tenants: [c]}]":                            {"long must have 1 to 4096 bytes"},
		"tokens: [{name: a, token-sha256: abc, tenants: [c]}]":                             {"token-sha256 must be 64 hex"},
		"tokens: [{name: a, token-sha256: " + strings.Repeat("g", 64) + ", tenants: [c]}]": {"token-sha256 must be 64 hex"},
		"tokens: [{name: a, token-sha256: " + strings.Repeat("0", 66) + ", tenants: [c]}]": {"token-sha256 must be 64 hex"},
		"tokens: [{name: a, token: t, tenants: [c]}, {name: b, token: t, tenants: [c]}]":   {"tokens[1] b: has the token of a"},
		// All problems at once.
		"users: [{name: a, password: s3cret}, {name: a, password: s3cret, tenants: [c]}, {tenants: [d]}]": {
			"users[0] a: tenants", "users[1] a: the name occurs twice", "users[2]: name",
		},
	} {
		_, err := parse([]byte(text), readTest)
		if err == nil {
			t.Errorf("%s: accepted", text)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in %q", text, w, err)
			}
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: a password is in %q", text, err)
		}
	}
}

func TestHashPassword(t *testing.T) {
	hash, err := HashPassword("pässwörd")
	if err != nil {
		t.Fatal(err)
	}
	if bcrypt.CompareHashAndPassword([]byte(hash), []byte("pässwörd")) != nil {
		t.Error("it is not the password's")
	}
	if _, err := parse([]byte("users: [{name: a, password-hash: '"+hash+"', tenants: [c]}]"), readTest); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", strings.Repeat("x", 73)} {
		if _, err := HashPassword(bad); err == nil {
			t.Errorf("a password of %d bytes was accepted", len(bad))
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(users))
	f.Add([]byte("users: [{name: a, password: b, tenants: ['*']}]"))
	f.Add([]byte("users: &a [*a]"))
	f.Add([]byte("tokens: [{name: a, token-sha256: " + hex.EncodeToString(sum("x")) + ", tenants: [c]}]"))
	f.Add([]byte("users:\n- {<<: {name: a}, password-file: ops.password, tenants: [a, b]}"))
	f.Add([]byte("---\n...\n---\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parse(text, readTest)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without text")
			}
			return
		}
		for name, u := range d.users {
			if name == "" || u.Name != name || u.hash == nil && u.plain == (digest{}) || u.plain == digest(sum("")) || !u.all && len(u.tenants) == 0 {
				t.Errorf("user %q: %+v", name, u)
			}
			if u.hash != nil {
				if cost, err := bcrypt.Cost(u.hash); err != nil || cost > maxCost {
					t.Errorf("user %q: cost %d, %v", name, cost, err)
				}
			}
		}
		for _, id := range d.tokens {
			if id.Name == "" || !id.all && len(id.tenants) == 0 {
				t.Errorf("token %+v", id)
			}
		}
	})
}

func FuzzAuthorization(f *testing.F) {
	for _, h := range []string{
		basic("shop", "correct horse"), apiKey("a", "b:c"), "Bearer token-of-ci", "bearer x y", "Basic", "Basic =", " Basic x", "ApiKey not+base64!", "",
	} {
		f.Add(h)
	}
	d, err := parse([]byte("tokens: [{name: ci, token: token-of-ci, tenants: [ci]}]\nusers: [{name: a, password: 'b:c', tenants: [x]}]"), readTest)
	if err != nil {
		f.Fatal(err)
	}
	v := newVerifier()
	f.Fuzz(func(t *testing.T, header string) {
		c, ok := parseAuthorization(header)
		if !ok {
			return
		}
		if c.token == "" && !c.isUser {
			t.Errorf("%q: no credentials", header)
		}
		id, err := d.identify(t.Context(), v, c)
		if err != nil && !errors.Is(err, errBusy) {
			t.Error(err)
		}
		want := c.token == "token-of-ci" || c.isUser && c.name == "a" && c.password == "b:c"
		if (id != nil) != want {
			t.Errorf("%q: identity %+v", header, id)
		}
	})
}
