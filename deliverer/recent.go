package deliverer

import (
	"math/bits"
	"sync"
)

// recent is what this process itself has finished lately: the same marks that go to Redis, kept for some seconds' worth of work. It answers where Redis
// is slow, gone or was emptied while this process lives on, and that is the common case: a router dies, another one repeats what it had not committed,
// and the copies come to the very process that has sent the tasks. It can only err towards sending, too: what it has forgotten is asked of Redis.
//
// Two generations of a fixed size: when the younger is full, the older is forgotten. A mark is compared by 128 bits of the task id.
type recent struct {
	mu           sync.Mutex
	young, older map[recentMark]struct{}
}

type recentMark [2]uint64

// recentMost is how many marks a generation holds: at 20,000 deliveries a second the six seconds that a group takes to miss a dead router. Both
// generations together take some 12 MiB when full.
const recentMost = 1 << 17

func newRecent() *recent {
	return &recent{young: map[recentMark]struct{}{}}
}

// recentMarkOf mixes round and attempt into the task id, all 130 bits of which go into the two words.
func recentMarkOf(id string, round int64, attempt int32) (k recentMark) {
	for i := range len(id) {
		c := uint64(id[i]-'2') + 26
		if id[i] >= 'a' {
			c = uint64(id[i] - 'a')
		}
		k[i&1] = bits.RotateLeft64(k[i&1], 5) ^ c
	}
	k[0] ^= uint64(round) * 0x9e3779b97f4a7c15
	k[1] ^= uint64(attempt) * 0xbf58476d1ce4e5b9
	return k
}

// add notes marks whose outcomes are durable.
func (r *recent) add(ms []Mark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range ms {
		if len(r.young) >= recentMost {
			r.young, r.older = map[recentMark]struct{}{}, r.young
		}
		r.young[recentMarkOf(m.TaskID, m.Round, m.Attempt)] = struct{}{}
	}
}

// seen sets seen[i] where the attempt about to be made, tasks[i], has ended here before, or its task has. It leaves the others as they are.
func (r *recent) seen(tasks []Mark, seen []bool) { r.look(tasks, seen, make([]bool, len(tasks))) }

// look is seen, and sets over[i] where it is the task that has ended.
func (r *recent) look(tasks []Mark, seen, over []bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.young)+len(r.older) == 0 {
		return
	}
	for i, m := range tasks {
		over[i] = over[i] || r.has(recentMarkOf(m.TaskID, m.Round, 0))
		seen[i] = seen[i] || over[i] || r.has(recentMarkOf(m.TaskID, m.Round, m.Attempt))
	}
}

func (r *recent) has(k recentMark) bool {
	if _, ok := r.young[k]; ok {
		return true
	}
	_, ok := r.older[k]
	return ok
}
