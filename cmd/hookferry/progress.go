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
	total    int64 // 0: not known; guarded by mu
	waits    bool  // the steps are milliseconds of a wait, and shown as time
	w        io.Writer
	terminal bool
	began    time.Time

	mu    sync.Mutex
	done  int64
	from  int64     // of done: what somebody else had done before this began
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

// Of says how many steps are done, and of how many (0: nobody knows yet): what a reading learns when it begins.
func (p *progress) Of(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total = done, total
	p.draw(time.Now())
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
	if p.waits {
		return fmt.Sprintf("%s: %s of %s", p.title, inSeconds(p.done), inSeconds(p.total))
	}
	rate := float64(p.done-p.from) / max(took.Seconds(), 0.001)
	if p.total <= 0 {
		return fmt.Sprintf("%s: %d in %s (%.0f/s)", p.title, p.done, took.Round(time.Second), rate)
	}
	line := fmt.Sprintf("%s: %d of %d (%d%%)", p.title, p.done, p.total, p.done*100/p.total)
	if left := p.total - p.done; left > 0 && rate > 0 {
		return fmt.Sprintf("%s, about %s left", line, time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	return fmt.Sprintf("%s in %s", line, took.Round(time.Second))
}

func inSeconds(ms int64) string { return fmt.Sprintf("%.1fs", float64(ms)/1000) }

// waiting shows how a wait passes that lasts so long at most. done ends it.
func (a *app) waiting(title string, length time.Duration) (done func()) {
	bar := a.progress(title, length.Milliseconds())
	bar.waits = true
	return bar.every(func() { bar.Set(min(time.Since(bar.began), length).Milliseconds()) })
}

// every has the state brought up to date while somebody else is at work. The function that it returns ends that, and the piece of work with it.
func (p *progress) every(update func()) (done func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				update()
			case <-stop:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(stop)
		<-ended
		p.Done()
	})
}
