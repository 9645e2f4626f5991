package deliverer

import (
	"fmt"
	"testing"

	"github.com/hookferry/hookferry/schemas"
)

func TestRecentKnowsWhatEndedHereAndNothingElse(t *testing.T) {
	id := func(i int) string {
		return schemas.TaskID(schemas.Source{Topic: "t", Offset: int64(i)}, "evt", fmt.Sprint("sub", i%7), "")
	}
	r := newRecent()
	seen := func(m Mark) bool {
		s := []bool{false}
		r.seen([]Mark{m}, s)
		return s[0]
	}
	if seen(Mark{id(1), 0, 1}) {
		t.Error("an empty memory has seen something")
	}
	r.add([]Mark{{id(1), 0, 2}, {id(2), 0, 0}, {id(3), 5, 0}})
	for _, c := range []struct {
		m    Mark
		want bool
	}{
		{Mark{id(1), 0, 2}, true}, {Mark{id(1), 0, 3}, false}, {Mark{id(1), 0, 1}, false}, {Mark{id(1), 1, 2}, false},
		{Mark{id(2), 0, 1}, true}, {Mark{id(2), 0, 9}, true}, {Mark{id(2), 1, 1}, false},
		{Mark{id(3), 0, 1}, false}, {Mark{id(3), 5, 1}, true}, {Mark{id(4), 0, 1}, false},
	} {
		if got := seen(c.m); got != c.want {
			t.Errorf("%+v: seen %v, want %v", c.m, got, c.want)
		}
	}
	// What came last is kept, what came first is forgotten, and no id is taken for another.
	for i := range 3 * recentMost {
		r.add([]Mark{{id(100 + i), 0, 0}})
	}
	if seen(Mark{id(2), 0, 1}) {
		t.Error("the memory has no bound")
	}
	for i := 2 * recentMost; i < 3*recentMost; i++ {
		if !seen(Mark{id(100 + i), 0, 1}) {
			t.Fatalf("mark %d was forgotten too early", i)
		}
	}
	if seen(Mark{id(99), 0, 1}) {
		t.Error("an id that was never added is seen")
	}
}
