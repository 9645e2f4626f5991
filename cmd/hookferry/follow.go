package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

const (
	followEvery = 250 * time.Millisecond
	// idleAfter is how long nothing may move before a command says that perhaps nobody is at work.
	idleAfter = 10 * time.Second
)

// cancelledError says that a redrive or reroute that a command waited for was taken back by somebody else.
type cancelledError struct{ ids []string }

func (e *cancelledError) Error() string {
	return fmt.Sprintf("%s was cancelled before it was done; what was done until then stays done", strings.Join(e.ids, ", "))
}

// Code is stable: programs may compare it.
func (e *cancelledError) Code() string { return "replay_cancelled" }

// followReplays waits until each of the replays is done or was cancelled, which is a *cancelledError; a cancelled one gets that state. progress says how far
// one has come; who names the service that works them off.
func (a *app) followReplays(ctx context.Context, client *kafka.Client, title, who string, replays []*schemas.Replay,
	progress func(*schemas.Replay) (scanned int64, done bool, err error)) error {
	ctx, stop := context.WithCancel(ctx)
	cancelled, failed := watchCancels(ctx, client)
	defer func() {
		stop()
		<-failed
	}()
	bar := a.progress(title, recordsOf(replays))
	defer bar.Done()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	moved, last, said := time.Now(), int64(-1), false
	var gone []string
	for {
		left, scanned := 0, int64(0)
		for _, o := range replays {
			n, done, err := progress(o)
			if err != nil {
				return err
			}
			if scanned += n; !done && o.State != schemas.ReplayCancelled {
				left++
			}
		}
		bar.Set(scanned)
		if left == 0 {
			break
		}
		if scanned != last {
			moved, last = time.Now(), scanned
		} else if !said && time.Since(moved) >= idleAfter {
			said = true
			bar.Note(fmt.Sprintf("note: nothing has moved for %v; no %s seems to run. The order stands and is worked off once one does; Ctrl-C ends only the wait.",
				idleAfter, who))
		}
		select {
		case <-tick.C:
		case id := <-cancelled:
			for _, o := range replays {
				if o.ID == id && o.State != schemas.ReplayCancelled {
					o.State, gone = schemas.ReplayCancelled, append(gone, id)
				}
			}
		case err := <-failed:
			return cmp.Or(err, ctx.Err(), errOrdersUnread)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if gone != nil {
		return &cancelledError{gone}
	}
	return nil
}

// recordsOf is how many records the orders have to look at; 0: some of them do not say.
func recordsOf(replays []*schemas.Replay) (n int64) {
	for _, o := range replays {
		if len(o.Begins) == 0 || len(o.Begins) != len(o.Ends) {
			return 0
		}
		for i := range o.Ends {
			n += o.Ends[i].Offset - o.Begins[i].Offset
		}
	}
	return n
}

var errOrdersUnread = errors.New("the topic of orders is not read any more")

// watchCancels reads the topic of orders from its beginning and names those that are cancelled, until ctx ends. failed is closed when nothing runs any
// more, after the error, if there was one.
func watchCancels(ctx context.Context, client *kafka.Client) (cancelled <-chan string, failed <-chan error) {
	ids, ended := make(chan string), make(chan error, 1)
	go func() {
		defer close(ended)
		start, err := client.Offsets(ctx, client.Topics().Replays, kafka.Earliest)
		if err != nil {
			ended <- err
			return
		}
		pos := make(map[kafka.TP]int64, len(start))
		for p, at := range start {
			pos[kafka.TP{Topic: client.Topics().Replays, Partition: p}] = at
		}
		f := client.NewFetcher(kafka.FetchConfig{})
		f.Assign(pos)
		err = f.Run(ctx, func(ctx context.Context, bs []kafka.Batch) error {
			for i := range bs {
				for _, r := range bs[i].Records {
					var o schemas.Replay
					if r.Value == nil || schemas.DecodeReplay(r.Value, &o) != nil || o.State != schemas.ReplayCancelled {
						continue
					}
					select {
					case ids <- string(r.Key):
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}
			return nil
		})
		if err != nil {
			ended <- err
		}
	}()
	return ids, ended
}
