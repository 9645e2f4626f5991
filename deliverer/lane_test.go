package deliverer

import (
	"testing"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// The flusher takes an item out of the books and then waits for the broker; commits in between name it and its copies.
func TestAnItemBeingWrittenIsNamedWithItsCopies(t *testing.T) {
	p := &part{progress: newProgress(0)}
	l := &lane{byID: map[string]*item{}, entities: map[string]*item{}}
	it := &item{Task: schemas.Task{ID: "a"}, part: p, offset: 3, lane: l, until: noon.Add(time.Second)}
	if _, first := l.admit(it, noon); !first {
		t.Fatal("no first")
	}
	if _, first := l.admit(&item{Task: schemas.Task{ID: "a"}, part: p, offset: 5}, noon); first {
		t.Fatal("two first ones")
	}
	l.strike(it)
	named := map[*part][]underWay{}
	nameFlying(named, it)
	if len(named[p]) != 2 {
		t.Errorf("named: %v", named[p])
	}
	if l.byID["a"] != nil {
		t.Error("a copy could still join what is written")
	}
}
