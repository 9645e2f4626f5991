//go:build faultpoints && linux

package fault

import (
	"errors"
	"io"
	"sync/atomic"
	"testing"
)

// An error comes from the nth time on and so many times, on its side alone, and never in place of a real one.
func TestAnOrderedErrorComesWhenItIsOrdered(t *testing.T) {
	orders, err := Parse("router.tasks:after:error:2:2")
	if err != nil {
		t.Fatal(err)
	}
	a := armed{orders: orders, hits: make([]atomic.Int64, 1)}
	var got []bool
	for range 5 {
		if a.reached(RouterTasks, SideBefore) != nil || a.reached(RouterDone, SideAfter) != nil {
			t.Error("came where it was not ordered")
		}
		var injected *Error
		got = append(got, errors.As(a.reached(RouterTasks, SideAfter), &injected))
	}
	if want := [5]bool{false, true, true, false, false}; [5]bool(got) != want {
		t.Errorf("%v, want %v", got, want)
	}
	if err := After(RouterTasks, io.EOF); err != io.EOF {
		t.Error("the step's own error is lost:", err)
	}
}
