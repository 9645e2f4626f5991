package schemas

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// wideSchema holds every construct once, also those that our own schemas do not use.
const wideSchema = `{"type":"record","name":"Wide","namespace":"a.b","doc":"all of it","fields":[
 {"name":"n","type":"null"},{"name":"t","type":"boolean"},{"name":"i","type":"int"},{"name":"l","type":"long"},{"name":"f","type":"float"},
 {"name":"d","type":"double"},{"name":"y","type":"bytes"},{"name":"s","type":"string"},
 {"name":"fx","type":{"type":"fixed","name":"F4","namespace":"c","size":4}},{"name":"fx2","type":"c.F4"},
 {"name":"e","type":{"type":"enum","name":"E","symbols":["A","B","C"],"default":"A"}},{"name":"e2","type":"E"},{"name":"e3","type":"a.b.E"},
 {"name":"dec","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
 {"name":"big","type":{"type":"bytes","logicalType":"decimal","precision":40,"scale":10}},
 {"name":"dfx","type":{"type":"fixed","name":"D8","size":8,"logicalType":"decimal","precision":16,"scale":4}},
 {"name":"date","type":{"type":"int","logicalType":"date"}},{"name":"tm","type":{"type":"int","logicalType":"time-millis"}},
 {"name":"tu","type":{"type":"long","logicalType":"time-micros"}},{"name":"tsm","type":{"type":"long","logicalType":"timestamp-millis"}},
 {"name":"tsu","type":{"type":"long","logicalType":"timestamp-micros"}},
 {"name":"list","type":{"type":"array","items":{"type":"array","items":["null","long","string"]}}},
 {"name":"map","type":{"type":"map","values":{"type":"record","name":"In","fields":[{"name":"x","type":["null","E"],"default":null}]}}},
 {"name":"u","type":["string","null","double",{"type":"map","values":"In"},{"type":"long","logicalType":"timestamp-millis"},"c.F4"]}
]}`

// everySchema is each .avsc of this folder (the ten events and our own records), and the wide one.
func everySchema(t testing.TB) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("*.avsc")
	if err != nil || len(paths) < 6 {
		t.Fatal(paths, err)
	}
	all := map[string]string{"wide": wideSchema}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(p, ".avsc")] = string(b)
	}
	return all
}

func parseOf(t testing.TB, text string) *Schema {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// generated is one random value twice over: as goavro takes it, and as the JSON that we promise for it.
type generated struct{ native, plain any }

// generator makes values; text and times are formatted here by the standard library, not by the code under test.
type generator struct{ *rand.Rand }

func (g generator) value(n *node, depth int) generated {
	switch n.kind {
	case kindNull:
		return generated{nil, nil}
	case kindBoolean:
		v := g.IntN(2) == 0
		return generated{v, v}
	case kindInt, kindLong:
		return g.number(n)
	case kindFloat:
		v := float32(g.NormFloat64() * math.Pow(10, float64(g.IntN(60)-30)))
		b, _ := json.Marshal(v)
		return generated{v, json.Number(b)}
	case kindDouble:
		v := g.NormFloat64() * math.Pow(10, float64(g.IntN(600)-300))
		b, _ := json.Marshal(v)
		return generated{v, json.Number(b)}
	case kindString:
		s := g.text()
		return generated{s, s}
	case kindEnum:
		s := n.symbols[g.IntN(len(n.symbols))]
		return generated{s, s}
	case kindBytes, kindFixed:
		return g.binary(n)
	case kindUnion:
		b := n.branches[g.IntN(len(n.branches))]
		v := g.value(b, depth)
		if b.kind == kindNull {
			return v
		}
		return generated{map[string]any{unionKey(b): v.native}, v.plain}
	case kindRecord:
		native, plain := map[string]any{}, map[string]any{}
		for i := range n.fields {
			v := g.value(n.fields[i].node, depth+1)
			native[n.fields[i].name], plain[n.fields[i].name] = v.native, v.plain
		}
		return generated{native, plain}
	case kindArray:
		native, plain := []any{}, []any{}
		for range g.IntN(1 + 6/(1+depth)) {
			v := g.value(n.elem, depth+1)
			native, plain = append(native, v.native), append(plain, v.plain)
		}
		return generated{native, plain}
	}
	native, plain := map[string]any{}, map[string]any{}
	for i := range g.IntN(12) {
		v := g.value(n.elem, depth+1)
		key := fmt.Sprint(i, g.text())
		native[key], plain[key] = v.native, v.plain
	}
	return generated{native, plain}
}

var logicalNames = map[logical]string{
	logicalDecimal: "decimal", logicalDate: "date", logicalTimeMillis: "time-millis", logicalTimeMicros: "time-micros",
	logicalTimestampMillis: "timestamp-millis", logicalTimestampMicros: "timestamp-micros",
}

// unionKey is what goavro calls a branch.
func unionKey(n *node) string {
	switch {
	case n.name != "":
		return n.name
	case n.logical != logicalNone && n.logical != logicalUUID:
		return kindNames[n.kind] + "." + logicalNames[n.logical]
	}
	return kindNames[n.kind]
}

func (g generator) text() string {
	pool := []string{"", "a", "plain ascii text", "\"quoted\" \\ back", "tab\tnl\ncr\r nul\x00 \x1f", "déjà vu", "日本語", "🚲 bike", "\u2028\u2029", "<b>&amp;</b>", "\x7f"}
	var b strings.Builder
	for range g.IntN(5) {
		b.WriteString(pool[g.IntN(len(pool))])
	}
	return b.String()
}

func (g generator) number(n *node) generated {
	const years = 60 // around 1970 + 30, and the edges now and then
	ms := g.Int64N(years*365*millisPerDay) - 10*365*millisPerDay
	if g.IntN(10) == 0 {
		ms = []int64{minDay * millisPerDay, (maxDay+1)*millisPerDay - 1, 0, -1}[g.IntN(4)]
	}
	t := time.UnixMilli(ms).UTC()
	switch n.logical {
	case logicalDate:
		day := t.Truncate(24 * time.Hour)
		return generated{day, day.Format(time.DateOnly)}
	case logicalTimeMillis:
		d := time.Duration(g.Int64N(millisPerDay)) * time.Millisecond
		return generated{d, time.Time{}.Add(d).Format("15:04:05.000")}
	case logicalTimeMicros:
		d := time.Duration(g.Int64N(microsPerDay)) * time.Microsecond
		return generated{d, time.Time{}.Add(d).Format("15:04:05.000000")}
	case logicalTimestampMillis:
		return generated{t, t.Format("2006-01-02T15:04:05.000Z")}
	case logicalTimestampMicros:
		t = time.UnixMilli(g.Int64N(years * 365 * millisPerDay)).Add(time.Duration(g.IntN(1000)) * time.Microsecond).UTC()
		return generated{t, t.Format("2006-01-02T15:04:05.000000Z")}
	}
	if n.kind == kindInt {
		v := int32(g.Uint32()) >> g.IntN(32)
		return generated{v, json.Number(fmt.Sprint(v))}
	}
	v := int64(g.Uint64()) >> g.IntN(64)
	return generated{v, json.Number(fmt.Sprint(v))}
}

func (g generator) binary(n *node) generated {
	if n.logical == logicalDecimal {
		limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(1+g.IntN(n.precision))), nil)
		i := new(big.Int).Rand(stdRand(g), limit)
		if g.IntN(2) == 0 {
			i.Neg(i)
		}
		if n.kind == kindFixed && i.Sign() == 0 {
			i.SetInt64(1) // goavro cannot write a fixed zero
		}
		rat := new(big.Rat).SetFrac(i, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n.scale)), nil))
		return generated{rat, rat.FloatString(n.scale)}
	}
	size := n.size
	if n.kind == kindBytes {
		size = g.IntN(40)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return generated{b, base64.StdEncoding.EncodeToString(b)}
}
