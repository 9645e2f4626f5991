package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	progressAfter    = time.Second            // shorter work shows nothing
	progressRedraw   = 100 * time.Millisecond // of the bar on a terminal
	progressInterval = 5 * time.Second        // between plain lines elsewhere
	progressWidth    = 30
)

// progress shows how far a piece of work is: a bar on a terminal, plain lines elsewhere, nothing if it ends within a second. It writes to standard
// error, so that it never mixes with a command's output. Safe for concurrent use.
type progress struct {
	title    string
	total    int64 // 0: not known
	w        io.Writer
	terminal bool
	began    time.Time

	mu    sync.Mutex
	done  int64
	drawn time.Time // zero: nothing shown yet
	ended bool
}

// progress begins a piece of work of so many steps (0: nobody knows). Call Done at its end.
func (a *app) progress(title string, total int64) *progress {
	return &progress{title: title, total: total, w: a.errOut, terminal: isTerminal(a.errOut), began: time.Now()}
}

// Add says that n more steps are done.
func (p *progress) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	p.draw(time.Now())
}

// Set says how many steps are done in all.
func (p *progress) Set(done int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = done
	p.draw(time.Now())
}

// Watch is Set for a reading that learns on its way how long it is.
func (p *progress) Watch(done, total int64) {
	p.mu.Lock()
	p.total = total
	p.mu.Unlock()
	p.Set(done)
}

// Note prints a line beside the bar.
func (p *progress) Note(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		line = "\r\x1b[K" + line
	}
	fmt.Fprintln(p.w, line)
}

// Done ends the work; what was shown is finished properly. It may be called twice.
func (p *progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	if p.drawn.IsZero() {
		return
	}
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s\n", p.line(time.Now()))
		return
	}
	fmt.Fprintln(p.w, p.line(time.Now()))
}

// draw shows the state if it is time to. Nothing ticks by itself: work that makes no progress shows none.
func (p *progress) draw(now time.Time) {
	interval := progressInterval
	if p.terminal {
		interval = progressRedraw
	}
	if p.ended || now.Sub(p.began) < progressAfter || now.Sub(p.drawn) < interval {
		return
	}
	p.drawn = now
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s %s", p.bar(), p.line(now))
		return
	}
	fmt.Fprintln(p.w, p.line(now))
}

func (p *progress) bar() string {
	if p.total <= 0 {
		return ""
	}
	filled := int(min(progressWidth, p.done*progressWidth/p.total))
	return "[" + strings.Repeat("#", filled) + strings.Repeat("-", progressWidth-filled) + "]"
}

func (p *progress) line(now time.Time) string {
	took := now.Sub(p.began)
	rate := float64(p.done) / max(took.Seconds(), 0.001)
	if p.total <= 0 {
		return fmt.Sprintf("%s: %d in %s (%.0f/s)", p.title, p.done, took.Round(time.Second), rate)
	}
	line := fmt.Sprintf("%s: %d of %d (%d%%)", p.title, p.done, p.total, p.done*100/p.total)
	if left := p.total - p.done; left > 0 && rate > 0 {
		return fmt.Sprintf("%s, about %s left", line, time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	return fmt.Sprintf("%s in %s", line, took.Round(time.Second))
}
