package fault

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Where orders come from, and where what was done is written.
const (
	Environ    = "HOOKFERRY_FAULT"
	EnvironLog = "HOOKFERRY_FAULT_LOG"
)

// Side says on which side of a point's step something happens.
type Side string

const (
	SideBefore Side = "before"
	SideAfter  Side = "after"
)

// Kind is what happens there.
type Kind string

const (
	Kill  Kind = "kill"  // SIGKILL to itself
	Stall Kind = "stall" // SIGSTOP to itself; who watches sends SIGCONT, after longer than a session lasts
	Fail  Kind = "error" // the step returns an Error
	Slow  Kind = "slow"  // this goroutine alone sleeps for SlowFor: for races that an order wants to win
)

// SlowFor is how long Slow sleeps: longer than a lease, shorter than the session time-out of a default configuration.
const SlowFor = 4500 * time.Millisecond

// Order is one thing to be done at a point: from the nth time on that its side is reached, so many times.
type Order struct {
	Point Point
	Side  Side
	Kind  Kind
	Nth   int64
	Times int64
}

// String is the order as Parse reads it.
func (o Order) String() string {
	return fmt.Sprintf("%s:%d:%d", Cell{o.Point, o.Side, o.Kind}, o.Nth, o.Times)
}

// Error is an injected error.
type Error struct{ Order Order }

func (e *Error) Error() string { return "injected: " + e.Order.String() }

// Parse reads orders, separated by commas:
//
//	point:before|after:kill|stall|slow|error[:nth[:times]]
//
// nth and times are 1 unless they are given.
func Parse(text string) ([]Order, error) {
	var out []Order
	for one := range strings.SplitSeq(text, ",") {
		f := strings.Split(one, ":")
		if len(f) < 3 || len(f) > 5 {
			return nil, fmt.Errorf("%q is not point:side:kind[:nth[:times]]", one)
		}
		o := Order{Side: Side(f[1]), Kind: Kind(f[2]), Nth: 1, Times: 1}
		var ok bool
		if o.Point, ok = Named(f[0]); !ok {
			return nil, fmt.Errorf("%q: there is no point of that name", f[0])
		}
		if o.Side != SideBefore && o.Side != SideAfter {
			return nil, fmt.Errorf("%q: before or after", f[1])
		}
		switch o.Kind {
		case Kill, Stall, Slow:
		case Fail:
			if !Points[o.Point].Fails {
				return nil, fmt.Errorf("%s cannot fail", f[0])
			}
		default:
			return nil, fmt.Errorf("%q: kill, stall, slow or error", f[2])
		}
		for i, into := range []*int64{&o.Nth, &o.Times} {
			if len(f) <= 3+i {
				continue
			}
			n, err := strconv.ParseInt(f[3+i], 10, 64)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("%q: a number from 1 on", f[3+i])
			}
			*into = n
		}
		out = append(out, o)
	}
	return out, nil
}
