package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/loki-go/loki-go/"

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// packages returns all packages of the module.
func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// below reports whether path is dir or in it.
func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// leaves may be imported from everywhere.
var leaves = []string{
	"internal/bounded", "internal/config", "internal/find", "internal/labels", "internal/tlsconf", "internal/units", "internal/unixsocket", "internal/vfs", "internal/warn",
}

// directions says, for the packages in a directory, in which directories
// everything of ours is that they depend on, directly or not. The first entry
// that holds a package counts.
var directions = []struct {
	dir  string
	deps []string
}{
	{"proto", []string{"proto"}},
	{"internal/bounded", nil},
	{"internal/find", nil},
	{"internal/labels", nil},
	{"internal/units", nil},
	{"internal/tlsconf", nil},
	{"internal/unixsocket", nil},
	{"internal/warn", nil},
	{"internal/vfs", []string{"internal/vfs"}},
	{"internal/config", nil},
	{"ring", append(leaves, "proto", "ring")},
	{"plugins/mapping/explain", append(leaves, "proto", "plugins")},
	{"plugins/mapping", append(leaves, "proto")},
	{"plugins/fluentbit", append(leaves, "proto", "plugins/mapping", "plugins/msgpack", "plugins/grpcpush/pushclient", "plugins/fluentbit")},
	{"plugins", append(leaves, "proto", "plugins")},
	{"gateway", append(leaves, "proto", "ring", "gateway")},
	{"cluster", append(leaves, "proto", "ring", "storage/chunk", "storage/internal", "ingester/coverage")},
	{"storage/chunk", append(leaves, "proto", "storage/internal")},
	{"storage/index", append(leaves, "proto", "storage/chunk", "storage/internal")},
	{"storage", append(leaves, "proto", "storage")},
	{"ingester/coverage", nil},
	{"ingester/wal", append(leaves, "proto")},
	{"ingester", append(leaves, "proto", "storage", "ingester")},
	{"query", append(leaves, "proto", "storage", "ring", "query")},
}

func TestDependenciesPointOneWay(t *testing.T) {
	checked := map[string]int{}
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		i := slices.IndexFunc(directions, func(d struct {
			dir  string
			deps []string
		},
		) bool {
			return below(path, d.dir)
		})
		if i < 0 {
			continue
		}
		checked[directions[i].dir]++
		for _, dep := range p.Deps {
			dep, ours := strings.CutPrefix(dep, module)
			if ours && !below(dep, path) && !slices.ContainsFunc(directions[i].deps, func(dir string) bool { return below(dep, dir) }) {
				t.Errorf("%s depends on %s; it may use %v", path, dep, directions[i].deps)
			}
		}
	}
	for _, d := range directions {
		if checked[d.dir] == 0 {
			t.Errorf("no package is in %s", d.dir)
		}
	}
}

// Flags, the environment and signals belong to programs.
func TestOnlyProgramsReadFlags(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		program := below(path, "cmd") || below(path, "internal/bench/cmd")
		for _, imp := range p.Imports {
			if (imp == "flag" || imp == "os/signal") && !program {
				t.Errorf("%s imports %s", path, imp)
			}
			if below(strings.TrimPrefix(imp, module), "internal/testkit") && !below(path, "internal/testkit") && !below(path, "internal/bench") && !below(path, "test") {
				t.Errorf("%s, which is not a test, imports %s", path, imp)
			}
		}
	}
}

func TestBelow(t *testing.T) {
	for in, want := range map[[2]string]bool{{"a/b", "a"}: true, {"a", "a"}: true, {"ab", "a"}: false, {"a", "a/b"}: false} {
		if below(in[0], in[1]) != want {
			t.Error(fmt.Sprint(in))
		}
	}
}
