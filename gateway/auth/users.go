package auth

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"

	"github.com/loki-go/loki-go/proto/push"
)

// Bounds of the files.
const (
	maxFile   = 16 << 20
	maxSecret = 4 << 10
	// maxCost keeps a comparison below two seconds or so; a higher cost would
	// keep requests waiting, and 31 would take hours.
	maxCost = 14
)

// directory is what the users file says.
type directory struct {
	users  map[string]*user
	tokens map[digest]*Identity
	// nobody stands in for users that there are not, so that a guessed name
	// takes as long as a wrong password.
	nobody *user
}

type digest [sha256.Size]byte

type user struct {
	Identity
	hash  []byte // bcrypt
	plain digest // if there is no hash
}

// HashPassword returns what password-hash has for a password.
func HashPassword(password string) (string, error) {
	if password == "" {
		return "", errors.New("auth: the password is empty")
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return "", fmt.Errorf("auth: hash password: %w", err)
	}
	return string(hash), nil
}

// The file, as YAML has it.
type usersFile struct {
	Users  []userEntry  `yaml:"users"`
	Tokens []tokenEntry `yaml:"tokens"`
}

type userEntry struct {
	Name         string   `yaml:"name"`
	Password     string   `yaml:"password"`
	PasswordHash string   `yaml:"password-hash"`
	PasswordFile string   `yaml:"password-file"`
	Tenants      []string `yaml:"tenants"`
}

type tokenEntry struct {
	Name        string   `yaml:"name"`
	Token       string   `yaml:"token"`
	TokenFile   string   `yaml:"token-file"`
	TokenSHA256 string   `yaml:"token-sha256"`
	Tenants     []string `yaml:"tenants"`
}

// parser makes a directory of the text of a users file. Errors name all
// problems, and no secrets.
type parser struct {
	read func(name string) ([]byte, error) // of a file that the text refers to
	dir  *directory
	errs []error
}

func parse(text []byte, read func(name string) ([]byte, error)) (*directory, error) {
	var f usersFile
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	p := parser{read: read, dir: &directory{
		users: make(map[string]*user, len(f.Users)), tokens: make(map[digest]*Identity, len(f.Tokens)), nobody: &user{},
	}}
	for i := range f.Users {
		p.user(i, &f.Users[i])
	}
	for i := range f.Tokens {
		p.token(i, &f.Tokens[i])
	}
	return p.dir, errors.Join(p.errs...)
}

func (p *parser) failf(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

func (p *parser) user(i int, e *userEntry) {
	what := fmt.Sprintf("users[%d]", i)
	if e.Name == "" || strings.Contains(e.Name, ":") {
		p.failf("%s: name must be given, without a colon", what)
		return
	}
	what += " " + e.Name
	if p.dir.users[e.Name] != nil {
		p.failf("%s: the name occurs twice", what)
	}
	u := &user{Identity: p.identity(what, e.Name, e.Tenants)}
	p.dir.users[e.Name] = u
	switch {
	case given(e.Password, e.PasswordHash, e.PasswordFile) != 1:
		p.failf("%s: must have one of password, password-hash and password-file", what)
	case e.PasswordHash != "":
		u.hash = []byte(e.PasswordHash)
		cost, err := bcrypt.Cost(u.hash)
		if err != nil || cost > maxCost {
			p.failf("%s: password-hash must be one of bcrypt, with a cost of %d at most", what, maxCost)
		}
		if p.dir.nobody.hash == nil {
			p.dir.nobody.hash = u.hash
		}
	default:
		u.plain = sha256.Sum256([]byte(p.secret(what, e.Password, e.PasswordFile)))
	}
}

func (p *parser) token(i int, e *tokenEntry) {
	what := fmt.Sprintf("tokens[%d]", i)
	if e.Name == "" {
		p.failf("%s: name must be given", what)
		return
	}
	what += " " + e.Name
	id := p.identity(what, e.Name, e.Tenants)
	var d digest
	switch {
	case given(e.Token, e.TokenSHA256, e.TokenFile) != 1:
		p.failf("%s: must have one of token, token-sha256 and token-file", what)
		return
	case e.TokenSHA256 != "":
		if n, err := hex.Decode(d[:], []byte(e.TokenSHA256[:min(len(e.TokenSHA256), 2*len(d))])); err != nil || 2*n != len(e.TokenSHA256) || n != len(d) {
			p.failf("%s: token-sha256 must be 64 hexadecimal digits", what)
			return
		}
	default:
		d = sha256.Sum256([]byte(p.secret(what, e.Token, e.TokenFile)))
	}
	if was := p.dir.tokens[d]; was != nil {
		p.failf("%s: has the token of %s", what, was.Name)
	}
	p.dir.tokens[d] = &id
}

func given(values ...string) int {
	n := 0
	for _, v := range values {
		if v != "" {
			n++
		}
	}
	return n
}

func (p *parser) identity(what, name string, tenants []string) Identity {
	id := Identity{Name: name}
	if len(tenants) == 0 {
		p.failf("%s: tenants must name at least one, or \"*\" for all", what)
	}
	for _, t := range tenants {
		if t == "*" {
			id.all = true
			continue
		}
		if err := push.CheckTenant(t); err != nil {
			p.failf("%s: %v", what, err)
		}
		id.tenants = append(id.tenants, t)
	}
	return id
}

// secret returns text, or what the file of that name has, without the line
// break at its end.
func (p *parser) secret(what, text, name string) string {
	if name == "" {
		return text
	}
	raw, err := p.read(name)
	if err != nil {
		p.failf("%s: %v", what, err)
		return ""
	}
	raw = bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
	if len(raw) == 0 || len(raw) > maxSecret {
		p.failf("%s: %s must have 1 to %d bytes", what, name, maxSecret)
		return ""
	}
	return string(raw)
}

// stamps are what files looked like just before they were read.
type stamps map[string]stamp

type stamp struct{ info os.FileInfo } // nil: there was none

func look(name string) stamp {
	info, err := os.Stat(name)
	if err != nil {
		return stamp{}
	}
	return stamp{info}
}

func (s stamp) same(o stamp) bool {
	if s.info == nil || o.info == nil {
		return s.info == o.info
	}
	return os.SameFile(s.info, o.info) && s.info.Size() == o.info.Size() && s.info.ModTime().Equal(o.info.ModTime())
}

// same reports whether the files look as they did.
func (s stamps) same() bool {
	for name, was := range s {
		if !was.same(look(name)) {
			return false
		}
	}
	return true
}

// readDirectory reads a users file and those it refers to, and says which they
// are.
func readDirectory(name string) (*directory, stamps, error) {
	files := stamps{}
	read := func(name string) ([]byte, error) {
		files[name] = look(name)
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
		if err != nil {
			return nil, err
		}
		if len(text) > maxFile {
			return nil, fmt.Errorf("%s is larger than %d bytes", name, maxFile)
		}
		return text, nil
	}
	text, err := read(name)
	if err != nil {
		return nil, files, fmt.Errorf("users file: %w", err)
	}
	dir, err := parse(text, func(other string) ([]byte, error) {
		if !filepath.IsAbs(other) {
			other = filepath.Join(filepath.Dir(name), other)
		}
		return read(other)
	})
	if err != nil {
		return nil, files, fmt.Errorf("users file %s: %w", name, err)
	}
	return dir, files, nil
}
