package kafka

import (
	"context"
	"time"
)

// KeepPosition as a position given to Assign leaves a partition that stays where it is.
const KeepPosition = int64(-1)

// FetchConfig is how a Fetcher reads. The zero value of a field is its default.
type FetchConfig struct {
	MaxBytes       int32         // of one answer; default 16 MiB
	PartitionBytes int32         // of one partition in an answer; default 1 MiB
	MaxWait        time.Duration // how long the broker may wait for records; default 500 ms
	// Pace is the least time between two fetches that brought records, by how many the first one brought. nil: none.
	Pace func(records int) time.Duration
	// Full is asked each round: true leaves the partition out (flow control). Wake makes the loop ask again. Must not block.
	Full func(TP) bool
	// OutOfRange decides where to read on when the asked offset lies outside [start, end]. ok=false stops the partition (see Stopped).
	// nil: stop. Called by the goroutine of a broker's loop.
	OutOfRange func(tp TP, asked, start, end int64) (next int64, ok bool)
	// Empty: also hand over answers without records, so that the caller learns that a partition was read to its end just now.
	Empty bool
}

// Fetcher reads partitions; it owns their positions.
type Fetcher struct{}

// NewFetcher makes a Fetcher that does nothing until Run.
func (c *Client) NewFetcher(fc FetchConfig) *Fetcher { panic("BUG: not there yet") }

// Assign sets all partitions to read, with the offset to start at. A partition that stays keeps its position if the given one is
// KeepPosition. What was fetched for partitions that left, or whose position changed, and not yet handled, is dropped.
func (f *Fetcher) Assign(pos map[TP]int64) {}

// Seek moves one assigned partition.
func (f *Fetcher) Seek(tp TP, offset int64) {}

// Wake makes the loops ask Full again.
func (f *Fetcher) Wake() {}

// Position is the offset after the last record that was handed over (or will be: one answer is read ahead).
func (f *Fetcher) Position(tp TP) (int64, bool) { return 0, false }

// Stopped lists the partitions that are not read any more, and why.
func (f *Fetcher) Stopped() map[TP]error { return nil }

// Run reads until ctx ends or handle returns an error, and returns when everything it started has ended. handle is called by one goroutine.
func (f *Fetcher) Run(ctx context.Context, handle func(ctx context.Context, bs []Batch) error) error {
	panic("BUG: not there yet")
}
