package kafka

import (
	"context"
	"errors"
)

// AppenderConfig is how an Appender writes.
type AppenderConfig struct {
	Compression Codec
}

// Records are records under construction, in order per partition. The zero value is ready; Reset keeps its buffers. Not safe for concurrent use.
type Records struct{}

// Add appends a record. The parts of its value are concatenated; everything is copied. A nil key is no key.
func (r *Records) Add(tp TP, key []byte, headers []Header, value ...[]byte) {
	panic("BUG: not there yet")
}

// AddTombstone appends a record without a value: compaction will drop the key.
func (r *Records) AddTombstone(tp TP, key []byte) { panic("BUG: not there yet") }

// Len is the number of records.
func (r *Records) Len() int { return 0 }

// Size is their size on the wire before compression, in bytes.
func (r *Records) Size() int { return 0 }

// Reset forgets the records and keeps the buffers.
func (r *Records) Reset() {}

// Ack is what became of one batch: a partition has several if its records were more than one batch holds, in order.
type Ack struct {
	TP
	Base  int64 // offset of the first record; -1 if the broker only said that it has the batch already
	Count int   // records
	Time  int64 // append time, ms; -1 where the topic has create time
	Err   error // nil, or a *PartitionError
}

// PartitionError is why a batch was not acknowledged.
type PartitionError struct {
	TP
	Rejected bool // the broker refused the records themselves (too large, invalid): surely not written, and trying again is of no use
	Unknown  bool // may be written. If neither, it is surely not written, and may be tried again
	Err      error
}

func (e *PartitionError) Error() string { return e.Err.Error() }
func (e *PartitionError) Unwrap() error { return e.Err }

// AppendError joins the errors of an Append, one per partition that failed.
type AppendError struct{ Partitions []*PartitionError }

func (e *AppendError) Error() string { return "append failed" }

// Unwrap gives errors.Is and errors.As all of them.
func (e *AppendError) Unwrap() []error {
	out := make([]error, len(e.Partitions))
	for i, p := range e.Partitions {
		out[i] = p
	}
	return out
}

// ErrClosed is returned by what was closed.
var ErrClosed = errors.New("kafka: closed")

// Appender writes records idempotently, acks=all. Safe for concurrent use; what one goroutine appends to a partition stays in order.
type Appender struct{}

// NewAppender makes an Appender; it ends with the Client.
func (c *Client) NewAppender(cfg AppenderConfig) *Appender { panic("BUG: not there yet") }

// Append writes all records, and returns when each is acknowledged, refused, or ctx has ended; transient errors are tried again until then.
// The error is an *AppendError if any partition failed. After success r is Reset; after an error its content is undefined.
func (a *Appender) Append(ctx context.Context, r *Records) ([]Ack, error) {
	panic("BUG: not there yet")
}
