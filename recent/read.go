package recent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/kafka"
)

// This file is for the commands.

// Reader answers for one company without a service: it reads all bookings first.
type Reader struct {
	bookings *bookings
	stop     context.CancelFunc
	ended    chan error
}

// Watch says how far a long reading has come: events read, and about how many there are. It may be nil.
type Watch func(read, total int64)

// Read reads the bookings of a company, and returns when it knows all that was acknowledged when it was called. Close ends it.
func Read(ctx context.Context, c *kafka.Client, log *zap.Logger, company string, watch Watch) (*Reader, error) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &Reader{bookings: newBookings(c, log, nil, company), stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- r.bookings.follow(running) }()
	caught := make(chan error, 1)
	catching, stopCatching := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stopCatching()
	wg.Go(func() { caught <- r.bookings.catchUp(catching) })
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if watch != nil {
				watch(r.bookings.progress())
			}
		case err := <-caught:
			if err == nil {
				return r, nil
			}
			stop()
			<-r.ended
			return nil, err
		case err := <-r.ended:
			stop()
			return nil, errors.Join(errors.New("the topic of bookings is not read any more"), err)
		}
	}
}

// Close ends the reading.
func (r *Reader) Close() {
	r.stop()
	<-r.ended
}

// Skipped is how many records could not be read.
func (r *Reader) Skipped() int64 {
	r.bookings.mu.RLock()
	defer r.bookings.mu.RUnlock()
	return r.bookings.skipped
}

// Recent is the list as a JSON document, as the service gives it.
func (r *Reader) Recent(_ context.Context, a Ask) ([]byte, error) {
	if err := a.Check(); err != nil {
		return nil, err
	}
	return r.bookings.document(&a)
}

// Snapshot publishes a snapshot of the bookings as they are now.
func (r *Reader) Snapshot(ctx context.Context, a Ask, publish Publish) (*Taken, error) {
	return newPublisher(r.bookings, publish, nil).take(ctx, a)
}

func (b *bookings) progress() (read, total int64) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	left := int64(0)
	for p := range b.next {
		left += max(0, b.first[p]-b.next[p])
	}
	return b.read, b.read + left
}

// Client asks a service.
type Client struct {
	base, token string
	http        *http.Client
}

// NewClient makes a client of a service at a URL. It makes no round trip. The operator named the host, so the guard that keeps receivers' URLs away from
// inner addresses does not apply to it.
func NewClient(base string, token kafka.Password) *Client {
	var noPolicy *egress.Policy
	return &Client{strings.TrimRight(base, "/"), token.Reveal(), noPolicy.HTTPClient(takeLimit+5*time.Second, egress.Internal(), egress.MaxBody(mostAnswer))}
}

// mostAnswer is more than 500 bookings of the longest texts.
const mostAnswer = 8 << 20

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Recent asks for the list as a JSON document.
func (c *Client) Recent(ctx context.Context, a Ask) ([]byte, error) {
	return c.call(ctx, http.MethodGet, pathRecent, &a)
}

// Snapshot has a snapshot published. If no answer comes, or none that says what became of it, it asks twice more, under the same id.
func (c *Client) Snapshot(ctx context.Context, a Ask) (*Taken, error) {
	if a.ID == "" {
		a.ID = NewRequestID()
	}
	var doc []byte
	for tries := 1; ; tries++ {
		var err error
		if doc, err = c.call(ctx, http.MethodPost, pathSnapshots, &a); err == nil {
			break
		}
		var said *AnswerError
		if tries == 3 || !errors.As(err, &said) || said.code != "recent_unreachable" && said.code != "unavailable" {
			return nil, err
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	out := &Taken{}
	if err := json.Unmarshal(doc, out); err != nil || out.EventID != a.eventID() {
		return nil, &AnswerError{"answer_invalid", "the answer is not that of Hookferry's service recent; is recent.url right?"}
	}
	return out, nil
}

// AnswerError is what a service said, or that it said nothing.
type AnswerError struct{ code, sentence string }

func (e *AnswerError) Error() string { return e.sentence }

// Code is the service's, or recent_unreachable, or answer_invalid.
func (e *AnswerError) Code() string { return e.code }

func (c *Client) call(ctx context.Context, method, path string, a *Ask) ([]byte, error) {
	if err := a.Check(); err != nil {
		return nil, err
	}
	q := url.Values{"company": {a.Company}, "limit": {strconv.Itoa(a.Limit)}}
	if a.Subscription != "" {
		q.Set("subscription", a.Subscription)
	}
	if a.ID != "" {
		q.Set("id", a.ID)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &AnswerError{"recent_unreachable", fmt.Sprintf("%s does not answer: %v (does hookferry all or recent serve run there?)", c.base, err)}
	}
	defer resp.Body.Close()
	doc, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, &AnswerError{"recent_unreachable", fmt.Sprintf("the answer of %s ended early: %v", c.base, err)}
	}
	if resp.StatusCode != http.StatusOK {
		var says struct {
			Error struct{ Code, Message string }
		}
		if json.Unmarshal(doc, &says) != nil || says.Error.Code == "" {
			return nil, &AnswerError{"answer_invalid", fmt.Sprintf("%s answers %d, and not as Hookferry's service recent does; is recent.url right?", c.base, resp.StatusCode)}
		}
		return nil, &AnswerError{says.Error.Code, says.Error.Message}
	}
	if !json.Valid(doc) {
		return nil, &AnswerError{"answer_invalid", "the answer is not JSON; is recent.url right?"}
	}
	return doc, nil
}
