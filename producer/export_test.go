package producer

// Blocked is how many calls wait for room in the buffer.
func (p *Producer) Blocked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.blocked
}
