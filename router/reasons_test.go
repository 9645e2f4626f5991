package router

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The list is what `hookferry undecodable --reason` takes: a reason that is missing in it could not be asked for. It is held to the sources.
func TestUndecodableReasonsAreAllThatThereAre(t *testing.T) {
	want := map[string]bool{}
	look := func(file string, f func(ast.Node)) {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool { f(n); return true })
	}
	text := func(e ast.Expr) {
		if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
			s, _ := strconv.Unquote(l.Value)
			want[s] = true
		}
	}
	look("match.go", func(n ast.Node) {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 && strings.HasPrefix(v.Names[0].Name, "reason") {
			text(v.Values[0])
		}
	})
	look("../schemas/errors.go", func(n ast.Node) {
		if kv, ok := n.(*ast.KeyValueExpr); ok {
			if k, ok := kv.Key.(*ast.Ident); ok && k.Name == "Reason" {
				text(kv.Value)
			}
		}
	})
	list := UndecodableReasons()
	if len(want) < 25 || len(list) != len(want) {
		t.Errorf("%d reasons in the sources, %d in the list", len(want), len(list))
	}
	for r := range want {
		if !slices.Contains(list, r) {
			t.Errorf("%s is missing", r)
		}
	}
}
