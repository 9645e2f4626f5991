package deliverer

import (
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// This file is pure: how much a lane may send now. Times and answers go in, decisions come out; the lane holds the lock and the clock.

const (
	// circuitStrikes straight failures open the circuit unless deliverer.circuit_failures says otherwise: five tries of any tasks, so one bad task on a
	// quiet lane does not.
	circuitStrikes = 5
	probeFirst     = 5 * time.Second
	probeMost      = 5 * time.Minute
	// fallPause is the least time between two falls of concurrency and rate: the answers to what was under way already count once.
	fallPause = time.Second
	// recoverEvery is how often a throttled lane gets a little of what it lost back.
	recoverEvery = time.Second
	// retryAfterLongest bounds a hold once more: Judge has checked it, but a lane that waits for ever would be silence.
	retryAfterLongest = 24 * time.Hour
)

// pressure is what a lane has learned about how much its receiver takes.
//
//	closed --- straight strikes ----> open: one due task at a time, at growing intervals (a probe)
//	open   --- first success --------> closed, limit 1, one more per success up to the subscription's maximum
//
// Beside that, "throttled" halves limit and rate, and each second gives a little back; Retry-After holds everything until a time.
type pressure struct {
	most    int     // the subscription's max concurrency
	maxRate float64 // the subscription's max rate per second; 0: none

	circuit   int // straight strikes that open it
	strikes   int
	open      bool
	probing   bool // a probe is under way
	probeAt   time.Time
	probeWait time.Duration

	limit    float64 // sends at a time now
	rate     float64 // sends per second now; 0: no more than maxRate says
	rateStep float64 // what a second gives back
	fellAt   time.Time
	grewAt   time.Time

	tokens   float64
	tokensAt time.Time

	holdUntil time.Time
}

func newPressure(most int, maxRate float64) pressure {
	return pressure{most: most, maxRate: maxRate, limit: float64(most), circuit: circuitStrikes, probeWait: probeFirst}
}

// adjust takes over changed settings.
func (p *pressure) adjust(most int, maxRate float64) {
	if p.limit >= float64(p.most) || p.limit > float64(most) {
		p.limit = float64(most)
	}
	p.most, p.maxRate = most, maxRate
}

// rateNow is the rate that holds now, per second; 0: none.
func (p *pressure) rateNow() float64 {
	if p.rate > 0 && (p.maxRate == 0 || p.rate < p.maxRate) {
		return p.rate
	}
	return p.maxRate
}

// burst is how many sends may come at once after a pause: a tenth of a second's worth.
func burst(rate float64) float64 { return max(1, rate/10) }

// allow says whether one more send may start now, with busy under way. If not: for which reason, and after what time to ask again (0: when a send ends).
// A true answer is a promise: it takes the token, and is the probe if the circuit is open.
func (p *pressure) allow(now time.Time, busy int) (ok bool, why schemas.Reason, wait time.Duration) {
	if d := p.holdUntil.Sub(now); d > 0 {
		return false, schemas.ReasonHold, d
	}
	if p.open {
		if p.probing || busy > 0 {
			return false, schemas.ReasonCircuit, 0
		}
		if d := p.probeAt.Sub(now); d > 0 {
			return false, schemas.ReasonCircuit, d
		}
		p.probing = true
		return true, "", 0
	}
	if busy >= max(int(p.limit), 1) {
		return false, schemas.ReasonFull, 0
	}
	if rate := p.rateNow(); rate > 0 {
		p.tokens = min(burst(rate), p.tokens+rate*max(now.Sub(p.tokensAt), 0).Seconds())
		p.tokensAt = now
		if p.tokens < 1-1e-9 {
			return false, schemas.ReasonRate, time.Duration((1-p.tokens)/rate*float64(time.Second)) + time.Microsecond
		}
		p.tokens--
	}
	return true, "", 0
}

// release takes a promise of allow back: nothing was sent after all.
func (p *pressure) release() { p.probing = false }

// pressureChange is what a lane must do about an answer beside its task.
type pressureChange struct{ opened, closed, failed, recovered bool }

// ended learns from an answer. done is how many sends the lane gets through in a second.
func (p *pressure) ended(now time.Time, j *Judgement, busy int, done float64) (c pressureChange) {
	wasProbe := p.probing
	p.probing = false
	if j.HoldLane.After(p.holdUntil) {
		p.holdUntil = j.HoldLane
		if most := now.Add(retryAfterLongest); p.holdUntil.After(most) {
			p.holdUntil = most
		}
	}
	if j.Throttled {
		p.fall(now, busy, done)
	}
	switch {
	case j.Verdict == schemas.VerdictDelivered:
		c.recovered = p.strikes > 0
		c.closed = p.open
		if p.open {
			p.open, p.limit, p.probeWait = false, 1, probeFirst
		} else if p.limit < float64(p.most) && p.rate == 0 {
			p.limit++ // the ramp after the circuit closed: doubles with each round of answers
		}
		p.strikes = 0
	case j.Strike:
		c.failed = p.strikes == 0
		p.strikes++
		if p.open && wasProbe {
			p.probeWait = min(2*p.probeWait, probeMost)
			p.probeAt = now.Add(p.probeWait)
		} else if !p.open && p.strikes >= p.circuit {
			p.open, c.opened = true, true
			p.probeWait = probeFirst
			p.probeAt = now.Add(p.probeWait)
		}
	case p.open && wasProbe: // neither a success nor a failure of the receiver's: ask again soon
		p.probeAt = now.Add(p.probeWait)
	}
	return c
}

// fall halves what the lane may do.
func (p *pressure) fall(now time.Time, busy int, done float64) {
	if now.Sub(p.fellAt) < fallPause {
		return
	}
	p.fellAt, p.grewAt = now, now
	p.limit = max(1, min(p.limit, float64(busy))/2)
	from := done
	if p.rate > 0 {
		from = min(from, p.rate)
	}
	p.rate = max(1, from/2)
	p.rateStep = max(0.5, p.rate/10)
}

// tick gives back what a throttled lane lost, a step each second. Once the rate is past what the lane needs, the limit of it goes.
func (p *pressure) tick(now time.Time, done float64) {
	if p.rate == 0 || now.Sub(p.grewAt) < recoverEvery || now.Before(p.holdUntil) {
		return
	}
	p.grewAt = now
	p.limit = min(p.limit+1, float64(p.most))
	p.rate += p.rateStep
	if p.limit >= float64(p.most) && p.rate > 4*done {
		p.rate = 0
	}
}

// state names the lane's state for the metric.
func (p *pressure) state(now time.Time) string {
	switch {
	case p.open:
		return laneFailing
	case p.holdUntil.After(now):
		return laneHeld
	case p.rate > 0:
		return laneThrottled
	default:
		return laneHealthy
	}
}

// The states of a lane, as the metric shows them.
const (
	laneHealthy   = "healthy"
	laneThrottled = "throttled"
	laneHeld      = "held"
	laneFailing   = "failing"
)
