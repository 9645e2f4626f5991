package router

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
)

// limits keep replays from running away from the deliverers: at most ReplayOutstanding tasks of a partition of `replay` (and of `retry`, for the catch-ups that go
// there) wait for them, and a subscription gets no more tasks a second than it asks for. Nobody blocks here: who may not go on is told when to come again.
type limits struct {
	r *Router

	asking chan struct{} // holds a token while somebody asks Kafka
	mu     sync.Mutex
	asked  time.Time
	failed bool
	room   map[kafka.TP]int64 // tasks that a partition still takes; none before the first answer
	rates  map[string]*bucket // by subscription
}

const (
	roomFor   = time.Second // how old an answer may be
	roomAgain = 250 * time.Millisecond
	askRoom   = 2 * time.Second // for one such question: who cancels a replay waits no longer than this and a batch
)

func newLimits(r *Router) *limits {
	return &limits{r: r, asking: make(chan struct{}, 1), room: map[kafka.TP]int64{}, rates: map[string]*bucket{}}
}

// refresh asks how much is outstanding, if the last answer is over a second old. An error leaves the old answer, less what was written since.
func (l *limits) refresh(ctx context.Context) error {
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	old := time.Since(l.asked) >= roomFor
	l.mu.Unlock()
	if !old {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, askRoom)
	defer cancel()
	room, err := l.ask(bounded)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = time.Now()
	if err == nil {
		l.room = room
	}
	if failed := err != nil; failed != l.failed && ctx.Err() == nil {
		l.failed = failed
		if failed {
			l.r.log.Warn("nobody says how much of the replays is waiting: they go on with what was known", zap.Error(err))
		}
	}
	return ctx.Err()
}

// ask computes the room of all partitions that tasks of replays go to. The ends are asked first: what is committed in between only makes room.
func (l *limits) ask(ctx context.Context) (map[kafka.TP]int64, error) {
	room := map[kafka.TP]int64{}
	var tps []kafka.TP
	ends, starts := map[kafka.TP]int64{}, map[kafka.TP]int64{}
	for _, topic := range []string{l.r.topics.Replay, l.r.topics.Retry} {
		last, err := l.r.kafka.Offsets(ctx, topic, kafka.Latest)
		if err != nil {
			return nil, err
		}
		first, err := l.r.kafka.Offsets(ctx, topic, kafka.Earliest)
		if err != nil {
			return nil, err
		}
		for p, end := range last {
			tp := kafka.TP{Topic: topic, Partition: p}
			tps, ends[tp], starts[tp] = append(tps, tp), end, first[p]
		}
	}
	committed, err := l.r.kafka.CommittedOffsets(ctx, l.r.kafka.Config().TopicPrefix+l.r.cfg.DelivererGroup, tps)
	if err != nil {
		return nil, err
	}
	for _, tp := range tps {
		from := starts[tp]
		if c, ok := committed[tp]; ok {
			from = max(from, c.Offset)
		}
		room[tp] = int64(l.r.cfg.ReplayOutstanding) - (ends[tp] - from)
	}
	return room, nil
}

// take takes room for n tasks in each of some partitions, if all of them have it.
func (l *limits) take(tps []kafka.TP) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, tp := range tps {
		if l.room[tp] <= 0 {
			return false
		}
	}
	for _, tp := range tps {
		l.room[tp]--
	}
	return true
}

// rate says when a subscription may get its next task; 0: now, and it is counted.
func (l *limits) rate(subscription string, perSecond float64, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.rates[subscription]
	if b == nil {
		if len(l.rates) > 10_000 { // full buckets say nothing
			clear(l.rates)
		}
		b = &bucket{}
		l.rates[subscription] = b
	}
	return b.look(perSecond, now)
}

// spend counts n tasks of a subscription.
func (l *limits) spend(subscription string, n float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.rates[subscription]; b != nil {
		b.spend(n)
	}
}

// bucket is a token bucket that holds a second's worth, for an order that had to wait for its turn. It gives it out in pieces, and no faster than at twice the
// rate: a replay that goes on after a pause is no burst. Between two pieces there is nothing for anybody, so that all stretches of an order come at one time: each
// coming costs the broker requests. It may be overdrawn: one event may be many tasks.
type bucket struct {
	tokens, piece float64
	at, next      time.Time // of the last look; when the next piece may go
}

// look fills the bucket and says when the next task may go: 0 means now.
func (b *bucket) look(perSecond float64, now time.Time) time.Duration {
	some := max(1, min(perSecond/2, max(perSecond/20, 25)))
	after := func(tokens float64) time.Duration { return time.Duration(tokens / perSecond * float64(time.Second)) }
	if b.at.IsZero() {
		b.tokens = some
	} else {
		b.tokens = min(max(1, perSecond), b.tokens+perSecond*now.Sub(b.at).Seconds())
	}
	b.at = now
	wait := b.next.Sub(now)
	switch {
	case b.piece < 1 && wait > 0:
		return wait
	case b.tokens < 1:
		wait = after(some - b.tokens)
		b.piece, b.next = 0, now.Add(wait)
		return wait
	case wait <= 0:
		b.piece, b.next = 2*some, now.Add(after(some)) // what is left of the one before is not added
	}
	return 0
}

// spend takes n tasks out.
func (b *bucket) spend(n float64) {
	b.tokens -= n
	b.piece -= n
}
