package deliverer

import (
	"math/bits"
	"time"
)

// DefaultSchedule returns the waits before try 1, 2, 3 ...: 10 tries over 75 h 35 min. The first is tried at once; the early ones outlast a deploy,
// the late ones a long weekend.
func DefaultSchedule() []time.Duration {
	return []time.Duration{
		0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute,
		2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
}

const (
	// jitterOver is the wait up to which no jitter is added: what waits a minute or less comes back in small numbers, and soon.
	jitterOver = time.Minute
	// jitterPart is the largest jitter, as a part of the wait: 1/5 = 20 %.
	jitterPart = 5
	// postponeFirst and postponeMost bound the wait of a task that was handed back for our own trouble: it doubles from one to the other.
	postponeFirst = 5 * time.Second
	postponeMost  = 5 * time.Minute
)

// Jitter is what is added to the wait before a try: up to a fifth of it, always the same for the same task and attempt, so that two copies of one
// task stay together and the second finds the first's mark.
func Jitter(taskID string, attempt int32, wait time.Duration) time.Duration {
	if wait <= jitterOver {
		return 0
	}
	// The hash, read as a fraction of 2^64, times the largest jitter.
	part, _ := bits.Mul64(uint64(wait/jitterPart), hashTry(taskID, attempt))
	return time.Duration(part)
}

// hashTry is FNV-1a over the id and the attempt, with a last mixing so that its upper bits depend on all of them.
func hashTry(taskID string, attempt int32) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	for i := range len(taskID) {
		h = (h ^ uint64(taskID[i])) * prime
	}
	h = (h ^ uint64(uint32(attempt))) * prime
	return mix64(h)
}

// mix64 is the finalizer of SplitMix64, a bijection on 64 bits.
func mix64(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// NextDue says when a task is tried again after its try number attempt has failed at now. It is not ok when that was the last try. An empty schedule
// is the default one.
func NextDue(schedule []time.Duration, taskID string, attempt int32, now time.Time) (due time.Time, ok bool) {
	if len(schedule) == 0 {
		schedule = DefaultSchedule()
	}
	attempt = max(attempt, 1)
	if int(attempt) >= len(schedule) {
		return time.Time{}, false
	}
	wait := schedule[attempt]
	return now.Add(wait + Jitter(taskID, attempt+1, wait)), true
}

// PostponeWait is how long a task waits that could not be tried for a reason of our own, when it has been handed back so many times already.
func PostponeWait(postponed int32) time.Duration {
	if postponed >= 10 {
		return postponeMost
	}
	return min(postponeFirst<<max(postponed, 0), postponeMost)
}
