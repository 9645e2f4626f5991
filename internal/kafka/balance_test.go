package kafka

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// show prints who has what, in the order of the members.
func show(members []member, shares map[string]share) string {
	out := ""
	for _, m := range members {
		out += m.id + ":"
		for _, p := range shares[m.id].co {
			out += fmt.Sprint(" ", p)
		}
		for _, tp := range shares[m.id].spread {
			out += fmt.Sprint(" ", tp.Topic, tp.Partition)
		}
		out += "; "
	}
	return out
}

func co(id string, generation int32, had ...int32) member {
	return member{id, owned{generation: generation, co: had}}
}

func TestAssign(t *testing.T) {
	ab := []TP{{"a", 0}, {"a", 1}, {"a", 2}, {"b", 0}, {"b", 1}, {"b", 2}}
	for _, c := range []struct {
		name    string
		members []member
		co      int
		spread  []TP
		want    string
	}{
		{"one takes all", []member{co("x", 0)}, 3, nil, "x: 0 1 2; "},
		{"fresh members", []member{co("x", 0), co("y", 0)}, 5, nil, "x: 0 2 4; y: 1 3; "},
		{"all stays", []member{co("x", 3, 3, 4), co("y", 3, 0, 1, 2)}, 5, nil, "x: 3 4; y: 0 1 2; "},
		{"one joins", []member{co("x", 3, 0, 1, 2), co("y", 3, 3, 4, 5), co("z", 0)}, 6, nil, "x: 0 1; y: 3 4; z: 2 5; "},
		{"one left", []member{co("x", 3, 0, 1), co("z", 3, 2, 5)}, 6, nil, "x: 0 1 3; z: 2 4 5; "},
		{"two claim the same", []member{co("x", 3, 0, 1), co("y", 5, 1, 2)}, 4, nil, "x: 0 3; y: 1 2; "},
		{"more members than partitions", []member{co("x", 0), co("y", 1, 1), co("z", 0)}, 2, nil, "x: 0; y: 1; z:; "},
		{"what is no more", []member{co("x", 3, 7, 8, 0), co("y", 0)}, 2, nil, "x: 0; y: 1; "},
		{"topics are spread evenly", []member{co("x", 0), co("y", 0)}, 0, ab, "x: a0 a2 b1; y: a1 b0 b2; "},
		{"an even give back", []member{{"x", owned{generation: 1, spread: ab}}, co("y", 0)}, 0, ab, "x: a0 a1 b0; y: a2 b1 b2; "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := show(c.members, assign(c.members, c.co, c.spread)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// checkAssign holds assign to its promises.
func checkAssign(t *testing.T, members []member, n int, spread []TP) map[string]share {
	t.Helper()
	got := assign(members, n, spread)
	shuffled := slices.Clone(members)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if a, b := show(members, got), show(members, assign(shuffled, n, spread)); a != b {
		t.Fatalf("it depends on the order of the members:\n%s\n%s", a, b)
	}
	seen := map[TP]string{}
	least, most, moved, leastSpread, mostSpread := n, 0, 0, len(spread), 0
	for _, m := range members {
		s := got[m.id]
		least, most = min(least, len(s.co)), max(most, len(s.co))
		leastSpread, mostSpread = min(leastSpread, len(s.spread)), max(mostSpread, len(s.spread))
		for _, p := range s.co {
			if other, twice := seen[TP{"", p}]; twice {
				t.Fatalf("%d belongs to %s and %s", p, other, m.id)
			}
			seen[TP{"", p}] = m.id
			if !slices.Contains(m.co, p) {
				moved++
			}
		}
		for _, tp := range s.spread {
			if other, twice := seen[tp]; twice {
				t.Fatalf("%v belongs to %s and %s", tp, other, m.id)
			}
			seen[tp] = m.id
		}
	}
	if len(members) == 0 {
		return got
	}
	if len(seen) != n+len(spread) || most-least > 1 || mostSpread-leastSpread > 1 {
		t.Fatalf("%d of %d given, %d to %d each, %d to %d of spread ones", len(seen), n+len(spread), least, most, leastSpread, mostSpread)
	}
	if again := assign(remembered(members, got), n, spread); show(members, again) != show(members, got) {
		t.Fatalf("the same members, and something moved:\n%s\n%s", show(members, got), show(members, again))
	}
	return got
}

func remembered(members []member, got map[string]share) []member {
	out := make([]member, len(members))
	for i, m := range members {
		out[i] = member{m.id, owned{generation: m.generation + 1, co: got[m.id].co, spread: got[m.id].spread}}
	}
	return out
}

func TestAJoinMovesNoMoreThanTheNewShareAndALeaveOnlyWhatIsLeft(t *testing.T) {
	const n = 64
	spread := make([]TP, 0, 60)
	for _, topic := range []string{"a", "b", "c", "d", "e"} {
		for p := range int32(12) {
			spread = append(spread, TP{topic, p})
		}
	}
	members := []member{}
	moves := func(before []member, got map[string]share) (moved int) {
		for _, m := range before {
			for _, p := range got[m.id].co {
				if !slices.Contains(m.co, p) {
					moved++
				}
			}
		}
		return moved
	}
	for k := 1; k <= 12; k++ {
		members = append(members, co(fmt.Sprintf("m%02d", k), 0))
		got := checkAssign(t, members, n, spread)
		if m := moves(members, got); k > 1 && m > (n+k-1)/k {
			t.Fatalf("member %d joins and %d move", k, m)
		}
		members = remembered(members, got)
	}
	for len(members) > 1 {
		gone := members[len(members)/2]
		members = slices.Delete(members, len(members)/2, len(members)/2+1)
		got := checkAssign(t, members, n, spread)
		if m := moves(members, got); m > len(gone.co) {
			t.Fatalf("%d left, %d moved", len(gone.co), m)
		}
		members = remembered(members, got)
	}
}

func FuzzAssign(f *testing.F) {
	f.Add(uint64(1), uint8(3), uint8(12), uint8(20))
	f.Fuzz(func(t *testing.T, seed uint64, members, n, spread uint8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var tps []TP
		for i := range int(spread) {
			tps = append(tps, TP{string(rune('a' + i%7)), int32(i / 7)})
		}
		var ms []member
		for i := range int(members % 20) {
			m := member{id: fmt.Sprint("m", i), owned: owned{generation: rng.Int32N(3)}}
			for range rng.IntN(10) { // claims of all kinds, also twice and of what is not there
				m.co = append(m.co, rng.Int32N(int32(n)+3))
				m.spread = append(m.spread, TP{string(rune('a' + rng.IntN(9))), rng.Int32N(5)})
			}
			ms = append(ms, m)
		}
		checkAssign(t, ms, int(n), tps)
	})
}

func FuzzOwned(f *testing.F) {
	f.Add([]byte{})
	f.Add(owned{7, []int32{1, 2, 300}, []TP{{"a", 1}, {"a", 2}, {"b", 0}}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		o := decodeOwned(b)
		slices.SortFunc(o.spread, compareTP)
		if again := decodeOwned(o.encode()); fmt.Sprint(again) != fmt.Sprint(o) {
			t.Fatalf("%v became %v", o, again)
		}
	})
}
