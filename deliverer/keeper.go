package deliverer

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
)

// keeper is the one clock of a deliverer: one goroutine, one timer. It brings tasks to their lanes when they are due, wakes lanes and fetch loops at
// times that they asked for, and looks at every lane that has work, twenty times a second. No task has a timer of its own.
type keeper struct {
	d *Deliverer

	mu     sync.Mutex
	times  timeHeap
	active map[*lane]struct{}
	signal chan struct{} // capacity 1: something earlier than what the timer stands at

	busyLanes atomic.Int64 // len(active)
	late      atomic.Int64 // ns by which our timer comes late, lately: how long anything waits for a processor on this machine
}

// timed is one thing to do at a time; exactly one of the first four pointers is set.
type timed struct {
	at      time.Time
	due     *item
	settle  *item
	lane    *lane
	fetcher *kafka.Fetcher
	seek    *part // with fetcher: end its long poll by asking for offset
	offset  int64
}

type timeHeap []timed

func (h timeHeap) Len() int           { return len(h) }
func (h timeHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timeHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timeHeap) Push(x any)        { *h = append(*h, x.(timed)) }
func (h *timeHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = timed{}
	*h = old[:len(old)-1]
	return t
}

const (
	activeTick = 50 * time.Millisecond
	slowTick   = 10 * time.Second
	clockTick  = time.Second
)

func newKeeper(d *Deliverer) *keeper {
	return &keeper{d: d, active: map[*lane]struct{}{}, signal: make(chan struct{}, 1)}
}

func (k *keeper) add(t timed) {
	k.mu.Lock()
	heap.Push(&k.times, t)
	first := k.times[0].at.Equal(t.at)
	k.mu.Unlock()
	if first {
		k.nudge()
	}
}

// count is how many lanes have work.
func (k *keeper) count() int { return int(k.busyLanes.Load()) }

// fastAnswer is how soon an answer must come to say that more connections would gain nothing. A machine at its limit makes every receiver look slow, and
// more connections make it slower still; but then our own timer is late as well, which no receiver can cause.
func (k *keeper) fastAnswer() time.Duration { return fastAnswer + 10*time.Duration(k.late.Load()) }

// mayWait says whether one more task may wait for its time in memory. Over a quarter of it, tasks go through the smallest tier once more, and are
// late by its wait at most: better than that they keep others out.
func (k *keeper) mayWait() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return int64(len(k.times)) < k.d.cfg.TasksInMemory/4
}

func (k *keeper) nudge() {
	select {
	case k.signal <- struct{}{}:
	default:
	}
}

func (k *keeper) dueAt(at time.Time, it *item)    { k.add(timed{at: at, due: it}) }
func (k *keeper) settleAt(at time.Time, it *item) { k.add(timed{at: at, settle: it}) }
func (k *keeper) wakeAt(at time.Time, l *lane)    { k.add(timed{at: at, lane: l}) }

// watch makes a lane one that is looked at. Its mutex is held, so k.mu comes after lane.mu, always.
func (k *keeper) watch(l *lane) {
	k.mu.Lock()
	k.active[l] = struct{}{}
	k.busyLanes.Store(int64(len(k.active)))
	first := len(k.active) == 1
	k.mu.Unlock()
	if first {
		k.nudge()
	}
}

// lanes are those with work.
func (k *keeper) lanes() []*lane {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*lane, 0, len(k.active))
	for l := range k.active {
		out = append(out, l)
	}
	return out
}

// run is the keeper's goroutine.
func (k *keeper) run(ctx context.Context) {
	timer := time.NewTimer(slowTick)
	defer timer.Stop()
	now := time.Now()
	nextTick, nextSlow, nextClock := now, now.Add(slowTick), now
	for {
		k.mu.Lock()
		at := nextSlow
		if len(k.active) > 0 && nextTick.Before(at) {
			at = nextTick
		}
		if len(k.times) > 0 && k.times[0].at.Before(at) {
			at = k.times[0].at
		}
		k.mu.Unlock()
		timer.Reset(max(time.Until(at), 0))
		select {
		case <-ctx.Done():
			return
		case <-k.signal:
			now = time.Now()
		case <-timer.C:
			now = time.Now()
			late := k.late.Load()
			k.late.Store(late + (int64(max(now.Sub(at), 0))-late)/4)
		}
		k.fire(ctx, now)
		if !now.Before(nextTick) {
			k.tick(now)
			nextTick = now.Add(activeTick)
		}
		if !now.Before(nextClock) {
			k.d.compareClocks(now)
			nextClock = now.Add(clockTick)
		}
		if !now.Before(nextSlow) {
			k.d.slowTick(now)
			nextSlow = now.Add(slowTick)
		}
	}
}

// fire does what is due.
func (k *keeper) fire(ctx context.Context, now time.Time) {
	k.mu.Lock()
	var due, unsettled []*item
	var lanes []*lane
	var fetchers []timed
	for len(k.times) > 0 && !k.times[0].at.After(now) {
		switch t := heap.Pop(&k.times).(timed); {
		case t.due != nil:
			due = append(due, t.due)
		case t.settle != nil:
			unsettled = append(unsettled, t.settle)
		case t.lane != nil:
			lanes = append(lanes, t.lane)
		default:
			fetchers = append(fetchers, t)
		}
	}
	k.mu.Unlock()
	for _, t := range fetchers {
		if t.seek != nil && !t.seek.lost.Load() && t.seek.next() == t.offset {
			t.fetcher.Seek(t.seek.tp, t.offset)
		}
		t.fetcher.Wake()
	}
	for _, l := range lanes {
		l.mu.Lock()
		l.work(now)
		l.mu.Unlock()
	}
	if len(unsettled) > 0 {
		fault.Before(fault.KeeperSettled)
		due = append(due, k.settled(ctx, unsettled, now)...)
		fault.After(fault.KeeperSettled, nil)
	}
	for len(due) > 0 {
		l, n := due[0].lane, 1
		for n < len(due) && due[n].lane == l {
			n++
		}
		fault.Before(fault.KeeperDue)
		l.mu.Lock()
		l.enqueue(due[:n], now)
		l.mu.Unlock()
		fault.After(fault.KeeperDue, nil)
		due = due[n:]
	}
}

// settled looks again at tasks that the owner before was sending when it last committed. Those with a mark are over; those whose deadline has passed
// may be tried; the others are asked again in a moment.
func (k *keeper) settled(ctx context.Context, items []*item, now time.Time) (due []*item) {
	d := k.d
	marks, seen, over := make([]Mark, len(items)), make([]bool, len(items)), make([]bool, len(items))
	for i, it := range items {
		marks[i] = Mark{TaskID: it.ID, Round: it.Round, Attempt: it.Attempt}
	}
	if d.marks.Look(ctx, marks, seen, over, nil) {
		d.metrics.failOpen.Inc()
	}
	d.recent.look(marks, seen, over) // the owner before may have been this process: partitions come back
	for i, it := range items {
		switch remaining := time.UnixMilli(it.Due).Sub(now); {
		case it.part.lost.Load():
			due = append(due, it) // enqueue drops it
		case seen[i]:
			it.out = outcome{verdict: verdictSeen}
			if it.stand != nil {
				it.lane.settled(it, over[i], now)
			}
			d.collect(it)
		case it.awaits.After(now):
			k.settleAt(earlier(it.awaits, now.Add(settle)), it)
		case remaining > 0:
			if it.stand != nil {
				it.lane.early(it, now)
			}
			k.dueAt(now.Add(remaining), it)
		default:
			due = append(due, it)
		}
	}
	return due
}

// tick looks at every lane with work.
func (k *keeper) tick(now time.Time) {
	for _, l := range k.lanes() {
		if l.tick(now) {
			continue
		}
		l.mu.Lock()
		if !l.active { // under its mutex: else it becomes active in between, and a commit just then would not see what it sends
			k.mu.Lock()
			delete(k.active, l)
			k.busyLanes.Store(int64(len(k.active)))
			k.mu.Unlock()
		}
		l.mu.Unlock()
	}
}
