package deliverer

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// settings are one version of a subscription, made ready for its lane's senders. Immutable.
type settings struct {
	change   uint64              // of the lane's changes, the last one that they hold
	live     *subscriptions.Live // nil: the table has no such subscription
	target   *Target
	schedule []time.Duration
	timeout  time.Duration
	// redrives are those that a subscription which asks for order waits for (resumed.go); redriven: they are over, as is known for good.
	redrives []string
	redriven atomic.Bool

	// Why no target could be made: what a try comes to instead.
	err     error
	failure schemas.Reason
	detail  string
}

// settingsNow are the settings as the table has them now. A change note counts the lane's changes up after the table has changed, and settings name the
// count that they were made at: whoever finds another count makes them anew. A flag that is cleared would not do: between clearing it and storing what
// was made, another sender would take the old settings for the new ones, or none at all on a young lane.
func (l *lane) settingsNow() *settings {
	if set := l.settings.Load(); set != nil && set.change == l.changes.Load() {
		return set
	}
	l.setMu.Lock()
	defer l.setMu.Unlock()
	change := l.changes.Load() // before the table is read: a change in between makes the next try look again
	old := l.settings.Load()
	if old != nil && old.change == change { // another sender was here first
		return old
	}
	set := l.d.readSettings(l.id)
	set.change = change
	l.settings.Store(set)
	if old != nil && old.live != nil && (set.live == nil || set.live.URL != old.live.URL || set.live.State != schemas.StateActive) {
		l.conns.CloseIdle(time.Now())
	}
	most, rate := l.d.cfg.MaxConcurrency, 0.0
	if set.live != nil {
		if set.live.MaxConcurrency > 0 {
			most = int(set.live.MaxConcurrency)
		}
		rate = set.live.MaxRate
	}
	l.mu.Lock()
	l.press.adjust(most, rate)
	l.want = min(l.want, most)
	l.mu.Unlock()
	return set
}

// timeout is how long a send may take.
func (l *lane) timeout() time.Duration {
	if set := l.settings.Load(); set != nil && set.timeout > 0 {
		return set.timeout
	}
	return defaultTimeout
}

func (d *Deliverer) readSettings(id string) *settings {
	live, ok := d.table.Get(id)
	if !ok {
		return &settings{timeout: defaultTimeout}
	}
	set := &settings{live: live, timeout: time.Duration(live.TimeoutMs) * time.Millisecond}
	if set.timeout <= 0 {
		set.timeout = defaultTimeout
	}
	for _, ms := range live.Schedule {
		set.schedule = append(set.schedule, time.Duration(ms)*time.Millisecond)
	}
	if live.State != schemas.StateActive {
		return set
	}
	if live.Order == schemas.OrderEntity {
		set.redrives = live.ResumedRedrives()
	}
	set.target, set.err = NewTarget(live, d.policy, d.userAgent)
	if set.err == nil {
		return set
	}
	// A URL that the policy refuses by now is a failed try, which the owner sees and can mend. Anything else, such as a secret that no key opens, is
	// our own trouble and costs the task nothing.
	set.failure, set.detail = schemas.ReasonLocal, "not tried, for a reason on our side"
	var refusal *egress.Refusal
	if errors.As(set.err, &refusal) {
		set.failure, set.detail = schemas.ReasonBlocked, "the URL is not allowed"
	}
	return set
}
