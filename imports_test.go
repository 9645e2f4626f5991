// Package hookferry holds the rules that no single room can hold: who may import whom, and who may reach the network.
package hookferry

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/hookferry/hookferry/"

// rooms says which rooms each room may import, as docs/design.md lists them. A package belongs to the longest room that its path starts with. "*": all.
var rooms = map[string][]string{
	"schemas":                {},
	"deliverer/egress":       {},
	"deliverer/signature":    {},
	"internal/fault":         {},
	"internal/secrets":       {"schemas"},
	"internal/kafka":         {"schemas", "internal/fault", "deliverer/egress"},
	"internal/subscriptions": {"schemas", "internal/fault", "internal/kafka", "internal/secrets", "deliverer/egress"},
	"internal/host":          {},
	"internal/sandbox":       {"schemas", "internal/kafka", "internal/subscriptions", "internal/secrets", "internal/host", "deliverer/signature"},
	"producer":               {"schemas", "internal/kafka"},
	"router":                 {"schemas", "internal/fault", "internal/kafka", "internal/subscriptions", "internal/secrets", "internal/host"},
	"deliverer": {"schemas", "internal/fault", "internal/kafka", "internal/subscriptions", "internal/secrets", "internal/host",
		"deliverer/egress", "deliverer/signature"},
	"audit":         {"schemas", "internal/kafka", "internal/subscriptions"},
	"recent":        {"schemas", "internal/fault", "internal/kafka", "deliverer/egress"},
	"cmd/hookferry": {"*"},
	"house":         {"*"},
	"bench":         {"*"},
}

// room is the longest room that a path inside the module starts with; empty: none.
func room(path string) string {
	best := ""
	for r := range rooms {
		if (path == r || strings.HasPrefix(path, r+"/")) && len(r) > len(best) {
			best = r
		}
	}
	return best
}

// arrow says whether a package may import another, both of them ours; empty: it may.
func arrow(from, to string) string {
	fromRoom, toRoom := room(from), room(to)
	switch {
	case fromRoom == "":
		return from + " belongs to no room: name it in docs/design.md and here"
	case fromRoom == toRoom, slices.Contains(rooms[fromRoom], "*") && toRoom != "house" && toRoom != "cmd/hookferry":
		return ""
	case !slices.Contains(rooms[fromRoom], toRoom):
		return from + " may not import " + to + ": " + fromRoom + " may import " + strings.Join(rooms[fromRoom], ", ")
	}
	return ""
}

// testArrow is arrow for the tests of a package. Beside what the package may import they may use it from outside, and the sandbox if it has to do with
// Kafka: what needs a world to be tested lies above it. A stage's tests know no other stage either, or two of them could only be understood together.
func testArrow(from, to string) string {
	if to == "internal/sandbox" && slices.Contains(rooms[room(from)], "internal/kafka") || to == "internal/sandbox" && room(from) == "internal/kafka" {
		return ""
	}
	return arrow(from, to)
}

// testsOnly are packages of others that nothing that we ship may import.
var testsOnly = []string{"github.com/linkedin/goavro/v2"}

// Each build is looked at: what a build tag adds is imported by nothing else.
func TestImportsGoDownwardOnly(t *testing.T) {
	for _, tags := range []string{"", "faultpoints"} {
		t.Run("tags "+tags, func(t *testing.T) {
			packages, tests := 0, 0
			for _, p := range listPackages(t, tags) {
				from, ours := strings.CutPrefix(p.ImportPath, module)
				if !ours {
					continue // the package of this test
				}
				packages++
				for _, i := range p.Imports {
					if to, ours := strings.CutPrefix(i, module); ours {
						complain(t, arrow(from, to))
					} else if slices.Contains(testsOnly, i) {
						t.Errorf("%s may not import %s: it is for tests", from, i)
					}
				}
				for _, i := range slices.Concat(p.TestImports, p.XTestImports) {
					if to, ours := strings.CutPrefix(i, module); ours {
						tests++
						complain(t, testArrow(from, to))
					}
				}
			}
			if packages < len(rooms) || tests < 50 {
				t.Errorf("only %d packages and %d imports of tests were looked at", packages, tests)
			}
		})
	}
}

func complain(t *testing.T, problem string) {
	t.Helper()
	if problem != "" {
		t.Error(problem)
	}
}

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func listPackages(t *testing.T, tags string) (all []listed) {
	t.Helper()
	out, err := exec.Command("go", "list", "-tags", tags, "-json=ImportPath,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// docs/design.md gives the reason for every package that go.mod requires directly.
func TestEveryPackageOfOthersHasItsReason(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	design, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(design), "## Packages")
	if !found {
		t.Fatal("docs/design.md has no section Packages")
	}
	direct := 0
	for line := range strings.Lines(string(mod)) {
		path, _, requires := strings.Cut(strings.TrimSpace(line), " v")
		if !requires || strings.HasSuffix(strings.TrimSpace(line), "// indirect") {
			continue
		}
		direct++
		// As people write it: without the host where that is well known, the last part alone where several come from one repository.
		short := strings.Replace(strings.TrimPrefix(path, "github.com/"), "go.uber.org/", "uber-go/", 1)
		if !strings.Contains(table, short) && !strings.Contains(table, short[strings.LastIndex(short, "/pkg/")+1:]) {
			t.Errorf("docs/design.md does not say what %s is for", path)
		}
	}
	if direct < 10 || direct > 15 {
		t.Errorf("%d packages are required directly: at most 15 were wanted", direct)
	}
}

func TestImportsRuleKnowsAWrongArrow(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"router", "deliverer", false},
		{"deliverer", "router", false},
		{"deliverer/egress", "schemas", false},
		{"schemas", "internal/kafka", false},
		{"internal/kafka", "internal/subscriptions", false},
		{"internal/host", "schemas", false},
		{"producer", "internal/subscriptions", false},
		{"recent", "producer", false},
		{"recent", "router", false},
		{"router", "recent", false},
		{"bench", "cmd/hookferry", false},
		{"audit", "deliverer", false},
		{"pkg/util", "schemas", false},
		{"deliverer", "deliverer/egress", true},
		{"router", "internal/kafka", true},
		{"bench/faults", "bench/rig", true},
		{"cmd/hookferry", "internal/sandbox", true},
	} {
		if problem := arrow(c.from, c.to); (problem == "") != c.ok {
			t.Errorf("%s -> %s: %q, want ok %v", c.from, c.to, problem, c.ok)
		}
	}
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"router", "deliverer", false},
		{"deliverer", "producer", false},
		{"schemas", "internal/sandbox", false},
		{"internal/host", "internal/sandbox", false},
		{"deliverer/egress", "internal/kafka", false},
		{"internal/kafka", "internal/subscriptions", false},
		{"internal/kafka", "internal/sandbox", true},
		{"router", "internal/sandbox", true},
		{"schemas", "schemas", true},
	} {
		if problem := testArrow(c.from, c.to); (problem == "") != c.ok {
			t.Errorf("a test of %s -> %s: %q, want ok %v", c.from, c.to, problem, c.ok)
		}
	}
}

// outbound are the names that open a connection or send a request, by package. Who uses them by himself goes past the guard of deliverer/egress.
var outbound = map[string][]string{
	"net/http":   {"Client", "Transport", "DefaultClient", "DefaultTransport", "Get", "Head", "Post", "PostForm"},
	"net":        {"Dial", "DialTimeout", "Dialer", "DialTCP", "DialUDP", "DialIP", "DialUnix"},
	"crypto/tls": {"Dial", "DialWithDialer", "Dialer"},
}

// mayDial are the places that open connections: the guard itself, and where the operator's own Kafka and Redis are dialled. The bench sends from outside.
var mayDial = map[string][]string{
	"deliverer/egress/":  {"net/http", "net", "crypto/tls"},
	"internal/kafka/":    {"net"},
	"deliverer/dedup.go": {"net"}, // Redis
	"bench/":             {"net/http", "net"},
}

func allowed(path, pkg string) bool {
	for place, pkgs := range mayDial {
		if strings.HasPrefix(path, place) && slices.Contains(pkgs, pkg) {
			return true
		}
	}
	return false
}

func TestImportsOnlyTheGuardReachesTheNetwork(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir(), !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files++
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, use := range outboundUses(f) {
			if !allowed(filepath.ToSlash(path), use.pkg) {
				t.Errorf("%s: %s.%s opens connections past deliverer/egress", fset.Position(use.pos), use.pkg, use.name)
			}
		}
		return nil
	})
	if err != nil || files < 50 {
		t.Errorf("%d files: %v", files, err)
	}
}

type outboundUse struct {
	pkg, name string
	pos       token.Pos
}

// outboundUses finds the names of outbound in a file, under whatever name their package was imported.
func outboundUses(f *ast.File) []outboundUse {
	names := map[string]string{}
	var uses []outboundUse
	for _, i := range f.Imports {
		pkg, err := strconv.Unquote(i.Path.Value)
		if err != nil || !slices.Contains(slices.Collect(maps.Keys(outbound)), pkg) {
			continue
		}
		name := pkg[strings.LastIndex(pkg, "/")+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		if name == "." {
			uses = append(uses, outboundUse{pkg, "(dot import)", i.Pos()})
		}
		names[name] = pkg
	}
	ast.Inspect(f, func(n ast.Node) bool {
		// *http.Client names what the guard hands out; nobody can make one by that.
		if star, ok := n.(*ast.StarExpr); ok {
			if s, ok := star.X.(*ast.SelectorExpr); ok && s.Sel.Name == "Client" {
				return false
			}
		}
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok && slices.Contains(outbound[names[x.Name]], s.Sel.Name) {
			uses = append(uses, outboundUse{names[x.Name], s.Sel.Name, s.Pos()})
		}
		return true
	})
	return uses
}

func TestImportsRuleSeesThroughOtherNames(t *testing.T) {
	const src = `package p
import ( h "net/http"; "net"; "crypto/tls" )
var c h.Client
var d *h.Client
var e = new(h.Client)
var _ = h.StatusOK
func f() { net.Dial("tcp", ""); tls.Dial("tcp", "", nil); var d net.Dialer; _ = d; net.Listen("tcp", ""); h.Get("") }`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range outboundUses(f) {
		got = append(got, u.pkg+"."+u.name)
	}
	if want := []string{"net/http.Client", "net/http.Client", "net.Dial", "crypto/tls.Dial", "net.Dialer", "net/http.Get"}; !slices.Equal(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
}
