package deliverer

import (
	"context"
	"sync"
)

// memory bounds what is read and not finished. Intake waits for room; the flusher makes it.
type memory struct {
	mu                   sync.Mutex
	tasks, bytes         int64
	replays              int64 // of the tasks, those of replays and catch-ups
	mostTasks, mostBytes int64
	room                 chan struct{} // closed when room came back; nil when nobody waits
	onRoom               func()        // wakes the fetchers
	wasFull              bool
}

// take books tasks that were read.
func (m *memory) take(tasks, bytes, replays int64) {
	m.mu.Lock()
	m.tasks += tasks
	m.bytes += bytes
	m.replays += replays
	m.mu.Unlock()
}

// release books an item out.
func (m *memory) release(it *item) {
	replay := int64(0)
	if it.replay {
		replay = 1
	}
	m.give(1, int64(it.size), replay)
}

func (m *memory) give(tasks, bytes, replays int64) {
	m.mu.Lock()
	m.tasks -= tasks
	m.bytes -= bytes
	m.replays -= replays
	if m.tasks < 0 || m.bytes < 0 {
		m.mu.Unlock()
		panic("BUG: more tasks left memory than came in")
	}
	var room chan struct{}
	wake := false
	if !m.fullLocked() {
		room, m.room = m.room, nil
		wake, m.wasFull = m.wasFull, false
	}
	m.mu.Unlock()
	if room != nil {
		close(room)
	}
	if wake && m.onRoom != nil {
		m.onRoom()
	}
}

func (m *memory) fullLocked() bool { return m.tasks >= m.mostTasks || m.bytes >= m.mostBytes }

// full says that nothing more should be read. Whoever is told so is woken by onRoom.
func (m *memory) full() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wasFull = m.wasFull || m.fullLocked()
	return m.fullLocked()
}

// fullForReplays: replays have a quarter, and none of it while more than half is in use. So they are never ahead of what is live.
func (m *memory) fullForReplays() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	full := m.replays >= m.mostTasks/4 || m.tasks-m.replays >= m.mostTasks/2 || m.bytes >= m.mostBytes/2
	m.wasFull = m.wasFull || full
	return full
}

// tight says that lanes must not use more than they need.
func (m *memory) tight() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tasks*2 >= m.mostTasks || m.bytes*2 >= m.mostBytes
}

// wait returns when there is room.
func (m *memory) wait(ctx context.Context) error {
	for {
		m.mu.Lock()
		if !m.fullLocked() {
			m.mu.Unlock()
			return nil
		}
		if m.room == nil {
			m.room = make(chan struct{})
		}
		room := m.room
		m.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *memory) counts() (tasks, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tasks, m.bytes
}
