package config

import (
	"fmt"
	"strings"
)

// Getenv looks up an environment variable, like os.LookupEnv.
type Getenv func(name string) (string, bool)

// Expand replaces ${NAME} and ${NAME:-default} in text. A variable that is not
// set and has no default is an error: a password that silently became empty
// would be found out much later.
func Expand(text string, getenv Getenv) (string, error) {
	var out strings.Builder
	for {
		i := strings.Index(text, "${")
		if i < 0 {
			out.WriteString(text)
			return out.String(), nil
		}
		if i > 0 && text[i-1] == '$' {
			out.WriteString(text[:i-1] + "${")
			text = text[i+2:]
			continue
		}
		out.WriteString(text[:i])
		end := strings.IndexByte(text[i:], '}')
		if end < 0 {
			return "", fmt.Errorf("${ without a closing }")
		}
		name, def, hasDef := strings.Cut(text[i+2:i+end], ":-")
		if !validName(name) {
			return "", fmt.Errorf("${%s} does not name an environment variable", name)
		}
		val, ok := getenv(name)
		switch {
		case (!ok || val == "") && hasDef:
			val = def
		case !ok:
			return "", fmt.Errorf("environment variable %s is not set (${%s:-text} gives it a default)", name, name)
		}
		out.WriteString(val)
		text = text[i+end+1:]
	}
}

func validName(s string) bool {
	for i, c := range s {
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
