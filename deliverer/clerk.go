package deliverer

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/subscriptions"
)

// clerk writes what the deliverer learns about a subscription into its record: that it asked for no more, that it has been failing, that it works again.
// One goroutine, one record at a time; senders only leave a note, and the latest note about a subscription counts. A note that dies with the process is
// made again by the next try. A stop waits for those that disable: there may be no next try for long.
type clerk struct {
	d      *Deliverer
	writer *subscriptions.Writer

	mu     sync.Mutex
	notes  map[string]note
	signal chan struct{} // capacity 1
}

type note struct {
	disable string // the reason; empty: not to be disabled
	failing int64  // ms; 0: works
}

const (
	clerkMost  = 15 * time.Second // for one record
	clerkAgain = 5 * time.Second
	clerkLast  = 2 * time.Second // for what is left when the process stops
)

func newClerk(d *Deliverer, w *subscriptions.Writer) *clerk {
	return &clerk{d: d, writer: w, notes: map[string]note{}, signal: make(chan struct{}, 1)}
}

func (c *clerk) disable(id, reason string)        { c.leave(id, note{disable: reason}) }
func (c *clerk) failing(id string, now time.Time) { c.leave(id, note{failing: now.UnixMilli()}) }
func (c *clerk) works(id string)                  { c.leave(id, note{}) }

func (c *clerk) leave(id string, n note) {
	c.mu.Lock()
	if old, ok := c.notes[id]; !ok || old.disable == "" {
		c.notes[id] = n
	}
	c.mu.Unlock()
	poke(c.signal)
}

// run is the clerk's goroutine.
func (c *clerk) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.signal:
		}
		c.mu.Lock()
		notes := c.notes
		c.notes = map[string]note{}
		c.mu.Unlock()
		failed := false
		for id, n := range notes {
			if c.write(ctx, id, n) {
				continue
			}
			failed = true
			c.mu.Lock()
			if _, newer := c.notes[id]; !newer {
				c.notes[id] = n
			}
			c.mu.Unlock()
		}
		if failed {
			pause(ctx, clerkAgain)
			poke(c.signal)
		}
	}
}

// last writes, when run has ended and nothing is sent any more, who is yet to be disabled.
func (c *clerk) last(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, clerkLast)
	defer cancel()
	for id, n := range c.notes {
		if n.disable != "" {
			c.write(ctx, id, n)
		}
	}
}

func (c *clerk) write(ctx context.Context, id string, n note) (ok bool) {
	if c.writer == nil {
		return true
	}
	live, found := c.d.table.Get(id)
	if !found || n.disable == "" && (live.FailingSince != 0) == (n.failing != 0) {
		return true
	}
	bounded, cancel := context.WithTimeout(ctx, clerkMost)
	defer cancel()
	err := fault.Before(fault.ClerkWrite)
	switch {
	case err != nil:
	case n.disable != "":
		err = fault.After(fault.ClerkWrite, c.writer.Disable(bounded, id, n.disable))
	default:
		err = fault.After(fault.ClerkWrite, c.writer.SetFailing(bounded, id, n.failing))
	}
	if err != nil {
		if ctx.Err() == nil {
			c.d.log.Warn("a subscription's record could not be changed; trying again", zap.String("subscription", id), zap.Error(err))
		}
		return false
	}
	if n.disable != "" {
		c.d.log.Warn("a subscription was disabled", zap.String("subscription", id), zap.String("reason", n.disable))
	}
	return true
}
