package deliverer

import (
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
)

// This file is pure: where does a task wait, and for how long.

const (
	// lastSecond is waited in memory: a tier's record is read some time after its wait is over, and a try may come at most a second late.
	lastSecond = time.Second
	// tierSlack is how much later than due a tier may end.
	tierSlack = 250 * time.Millisecond
	// postponeMostLane bounds how long a lane hands a task back for.
	postponeMostLane = 30 * time.Minute
)

// tierFor is the tier that a task is written to when it is due in remaining: the largest one that ends before the task's last second begins. What is
// due sooner than any tier ends goes to the smallest: written down is safe, in memory is not, so it may come late by up to that tier's wait.
// tierSlack keeps a task that was due in five minutes a moment ago out of four waits of a minute and eleven of five seconds.
func tierFor(tiers []kafka.Tier, remaining time.Duration) int {
	if i, ok := kafka.TierFor(tiers, remaining+tierSlack); ok {
		return i
	}
	return 0
}

// waitsInMemory says whether a task that lies in a tier already and is due in remaining waits the rest in memory: it is still written down, so
// nothing is lost with this process, and no further tier is short enough.
func waitsInMemory(tiers []kafka.Tier, remaining time.Duration) bool {
	return remaining < tiers[0].Wait+lastSecond
}

// postponeFor is how long a lane hands a task back for. least is what the cause asks for at least (the end of a hold, the next probe); postponed is
// how often this task was handed back already, backlog how many tasks of the lane wait in tiers, rate what the lane gets done in a second. The more
// wait, the longer: each hand-over costs a write of the whole task, and a backlog of n tasks at r a second cannot end before n/r anyway. Beyond least
// the wait is a tier's, so that the task is due when its tier ends: a backlog must not wait in memory, which others need.
func postponeFor(least time.Duration, postponed int32, backlog int64, rate float64, tiers []kafka.Tier) time.Duration {
	smallest := tiers[0].Wait
	wait := smallest << min(max(postponed, 0), 6)
	if rate > 0 {
		wait = max(min(wait, 8*smallest), time.Duration(min(float64(backlog)/rate, 1e6)*float64(time.Second)))
	} else {
		wait = max(wait, time.Duration(min(backlog/1000, 1e6))*smallest)
	}
	wait = min(wait, postponeMostLane)
	return max(tiers[tierFor(tiers, wait)].Wait, least)
}

// readyAt is when a record of a tier may be read, by our clock: its wait counts from when the broker appended it.
func readyAt(appended int64, wait, skew time.Duration) time.Time {
	return time.UnixMilli(appended).Add(wait - skew)
}
