package fault

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// constants are the points by the names of their constants, in the order of the list.
func constants(t *testing.T) []string {
	f, err := parser.ParseFile(token.NewFileSet(), "points.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			names = append(names, s.(*ast.ValueSpec).Names[0].Name)
		}
	}
	return names[:len(names)-1] // without the count
}

// uses are the places where the product names the constants of points, and where it calls Before and After: by file, relative to the root.
func uses(t *testing.T) (named map[string][]string, calls map[string]int) {
	named, calls = map[string][]string{}, map[string]int{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		rel = filepath.ToSlash(rel)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (rel == "bench" || rel == "internal/fault" || rel != "." && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir(), !strings.HasSuffix(rel, ".go"), strings.HasSuffix(rel, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return strings.HasSuffix(i.Path.Value, `/internal/fault"`) }) {
			return nil // it calls something else fault
		}
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); !ok || x.Name != "fault" {
				return true
			}
			switch s.Sel.Name {
			case "Before", "After":
				calls[rel+" "+s.Sel.Name]++
			case "Point":
			default:
				named[s.Sel.Name] = append(named[s.Sel.Name], rel)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return named, calls
}

// The list says where each point stands, and each stands there and nowhere else. That both of its sides are reached is what the runs of the matrix say.
func TestTheListAndTheSourceAgree(t *testing.T) {
	named, calls := uses(t)
	files := map[string]bool{}
	for i, c := range constants(t) {
		p := Points[i]
		files[p.File] = true
		where := named[c]
		delete(named, c)
		slices.Sort(where)
		if where = slices.Compact(where); len(where) != 1 || where[0] != p.File {
			t.Errorf("%s (%s) is to stand in %s, and stands in %q", c, p.Name, p.File, where)
		}
		if p.Name == "" || len(p.Moves) < 20 {
			t.Errorf("%s: a name, and a sentence that says what moves", c)
		}
	}
	for c, where := range named {
		t.Errorf("%s: fault.%s is no point of the list", where, c)
	}
	for _, f := range slices.Sorted(maps.Keys(files)) {
		if calls[f+" Before"] == 0 || calls[f+" After"] == 0 {
			t.Errorf("%s: a point has two sides: %d calls of Before, %d of After", f, calls[f+" Before"], calls[f+" After"])
		}
	}
	names := map[string]bool{}
	for i := range Points {
		names[Points[i].Name] = true
	}
	if len(names) != len(Points) {
		t.Error("two points have one name")
	}
}

// What the matrix costs an ordinary build: nothing. The linker finds no name of a point, no order and none of this package's functions in it.
func TestTheOrdinaryBinaryHoldsNoPoint(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary twice")
	}
	found := func(tags string) (out []string) {
		bin := filepath.Join(t.TempDir(), "hookferry")
		build := exec.Command("go", "build", "-tags", tags, "-o", bin, "./cmd/hookferry")
		build.Dir = root
		if text, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		b, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{Environ, "hookferry/internal/fault.Before", "hookferry/internal/fault.After"}
		for i := range Points {
			want = append(want, Points[i].Moves)
		}
		for _, w := range want {
			if bytes.Contains(b, []byte(w)) {
				out = append(out, w)
			}
		}
		return out
	}
	if f := found("ordinary"); len(f) > 0 {
		t.Errorf("the ordinary binary holds %q", f)
	}
	if f := found("faultpoints"); len(f) != len(Points)+3 {
		t.Errorf("the look into the binary finds %d of %d things where they are: it proves nothing", len(f), len(Points)+3)
	}
}

func TestOrdersAreReadAndRefused(t *testing.T) {
	got, err := Parse("router.tasks:after:kill:3,flush.marks:before:error:1:7,lane.send:before:stall")
	want := []Order{{RouterTasks, SideAfter, Kill, 3, 1}, {FlushMarks, SideBefore, Fail, 1, 7}, {LaneSend, SideBefore, Stall, 1, 1}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"", "router.tasks", "router.tasks:after", "nothing:after:kill", "router.tasks:during:kill", "router.tasks:after:hurt", "lane.send:after:error",
		"router.tasks:after:kill:0", "router.tasks:after:kill:x", "router.tasks:after:kill:1:2:3"} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("%q was taken: %v", bad, got)
		}
	}
	for _, o := range want {
		if again, err := Parse(o.String()); err != nil || again[0] != o {
			t.Errorf("%v reads back as %v: %v", o, again, err)
		}
	}
}

func TestTheMatrixHoldsEveryCell(t *testing.T) {
	fails := 0
	for i := range Points {
		if Points[i].Fails {
			fails++
		}
	}
	cells := map[Cell]bool{}
	for _, c := range Matrix() {
		cells[c] = true
	}
	if want := 4*len(Points) + 2*fails; len(cells) != want {
		t.Errorf("%d cells, want %d", len(cells), want)
	}
}
