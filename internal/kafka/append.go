package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/initproducerid"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
)

// AppenderConfig is how an Appender writes.
type AppenderConfig struct {
	Compression Codec
}

// Ack is what became of one batch: a partition has several, in order, if its records were more than one batch holds.
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

func (e *PartitionError) Error() string {
	fate := "not written"
	switch {
	case e.Rejected:
		fate = "rejected"
	case e.Unknown:
		fate = "perhaps written"
	}
	return fmt.Sprintf("%s/%d: %s: %v", e.Topic, e.Partition, fate, e.Err)
}

func (e *PartitionError) Unwrap() error { return e.Err }

// AppendError joins the errors of an Append, one per batch that failed.
type AppendError struct{ Partitions []*PartitionError }

func (e *AppendError) Error() string {
	if len(e.Partitions) == 1 {
		return e.Partitions[0].Error()
	}
	return fmt.Sprintf("%s, and %d more", e.Partitions[0].Error(), len(e.Partitions)-1) // not the same text once per partition
}

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

const (
	requestLimit  = 8 << 20 // bytes of batches in one request
	brokerTimeout = 5000    // ms that a broker may wait for its replicas
)

// Appender writes records idempotently, acks=all. Safe for concurrent use; what one goroutine appends to a partition stays in order.
//
//	Append -> a queue per partition -> a sender per leader (a goroutine that lives while there is work) -> one request at a time
//
// A sender takes the first batch of every queue whose partition its broker leads, so what several goroutines append while a request is
// under way travels together in the next one. A partition belongs to one sender at a time, hence has one batch in flight.
//
// A leader has two senders: what was refused the last time travels apart from what was not. A partition whose replicas lag makes the broker hold
// its answer for brokerTimeout, and with it the answer to all that travels in the same request; that it may do once.
type Appender struct {
	c   *Client
	cfg AppenderConfig

	mu      sync.Mutex
	parts   map[TP]*part
	senders map[senderKey]*sender

	// asking is held over the round trip that gets a producer id: a channel and not a mutex, so that virtual time passes for who waits for it.
	asking     chan struct{}
	producer   int64
	epoch      int16
	generation int // how many producer ids we had
}

// part is what the Appender knows of a partition. Guarded by Appender.mu.
type part struct {
	tp        TP
	queue     []*pending
	scheduled bool // some sender has it, in flight or waiting
	inFlight  bool
	notBefore time.Time
	tries     int
	lastErr   error

	// The producer id under which this partition writes, the sequence of its next batch, and whether the id must be left:
	// because the fate of a batch that is given up is unknown, its sequence may or may not be taken.
	producer   int64
	epoch      int16
	generation int
	sequence   int32
	renew      bool
}

// pending is a batch on its way.
type pending struct {
	part   *part
	call   *call
	wire   []byte
	n      int
	codec  Codec
	sealed bool // stamped with producer id and sequence: sent again only byte by byte
	maybe  bool // an attempt was sent whose fate the broker did not tell
	onWire bool // an attempt is under way
	gone   bool // its caller has left
	done   bool
	ack    Ack
}

// call is one Append, or one Write. left is guarded by Appender.mu.
type call struct {
	batches []pending
	left    int
	ended   func() // called when left is 0, with Appender.mu held
}

// Write is a set of records that is written while its maker does other things: see Begin. Not safe for concurrent use.
type Write struct {
	Records Records // the Appender's from Begin to Ended
	// Ended is called once, when each batch is acknowledged or rejected for good. It is called from inside the Appender, so it may only leave a note:
	// it must not block, nor call the Appender. After Abandon it is not called.
	Ended func()

	cl *call
}

// senderKey is what a sender is for.
type senderKey struct {
	addr string // of the leader; "": those whose leader is not known
	sick bool   // partitions whose last try failed
}

// sender writes to one leader. Guarded by Appender.mu, but for wake.
type sender struct {
	senderKey
	parts []*part
	wake  chan struct{}
}

// NewAppender makes an Appender; it ends with the Client.
func (c *Client) NewAppender(cfg AppenderConfig) *Appender {
	return &Appender{c: c, cfg: cfg, parts: map[TP]*part{}, senders: map[senderKey]*sender{}, asking: make(chan struct{}, 1)}
}

// Append writes all records, and returns when each is acknowledged, refused, or ctx has ended; transient errors are tried again until then.
// The error is an *AppendError if any batch failed; the answers say in either case what became of each. r is Reset.
//
// A broker that lost its memory of our producer id (it was restarted after a long while, or the topic was made anew) can not say whether
// a batch that we send again is there already: then, and only then, it may be written twice.
func (a *Appender) Append(ctx context.Context, r *Records) ([]Ack, error) {
	if r.n == 0 {
		return nil, nil
	}
	cl, err := a.newCall(r)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	cl.ended = func() { close(done) }
	err = context.Cause(ctx)
	if err == nil && !a.enqueue(cl) {
		err = ErrClosed
	}
	whole := true
	if err == nil {
		select {
		case <-done:
		case <-ctx.Done():
			whole = a.abandon(cl, ctx.Err())
		case <-a.c.ctx.Done():
			whole = a.abandon(cl, ErrClosed)
		}
	} else {
		for i := range cl.batches {
			b := &cl.batches[i]
			b.ack.Err = &PartitionError{TP: b.ack.TP, Err: err}
		}
	}
	if whole {
		r.Reset()
	} else {
		*r = Records{} // a sender still reads from its buffers
	}
	return cl.result()
}

// Begin takes over the writing of several sets of records, none of them empty, and returns at once. Each set ends by itself: one whose partition has no
// leader waits until it has one, and holds up no other. What was begun earlier for a partition stands before what is begun later. Sets that are begun
// together travel together. The error says that the Appender is closed: then nothing was begun.
func (a *Appender) Begin(ws ...*Write) error {
	calls := make([]*call, len(ws))
	for i, w := range ws {
		cl, err := a.newCall(&w.Records)
		if err != nil {
			return err
		}
		cl.ended = w.Ended
		calls[i] = cl
	}
	if !a.enqueue(calls...) {
		return ErrClosed
	}
	for i, w := range ws {
		w.cl = calls[i]
	}
	return nil
}

// Result is what became of a Write that has ended, as Append gives it; its Records are Reset.
func (w *Write) Result() ([]Ack, error) {
	w.Records.Reset()
	return w.cl.result()
}

// Abandon gives up what is left of a Write that was begun; its Records must not be used any more.
func (a *Appender) Abandon(w *Write) {
	if !a.abandon(w.cl, context.Canceled) {
		w.Records = Records{} // a sender still reads from its buffers
	}
}

func (cl *call) result() ([]Ack, error) {
	acks := make([]Ack, len(cl.batches))
	var failed []*PartitionError
	for i := range cl.batches {
		acks[i] = cl.batches[i].ack
		if e := acks[i].Err; e != nil {
			failed = append(failed, e.(*PartitionError))
		}
	}
	if failed != nil {
		return acks, &AppendError{failed}
	}
	return acks, nil
}

// newCall makes the batches ready for the wire, compressed if so configured, but not stamped.
func (a *Appender) newCall(r *Records) (*call, error) {
	n := 0
	for i := range r.slots[:len(r.index)] {
		n += len(r.slots[i].batches)
	}
	cl := &call{batches: make([]pending, 0, n), left: n}
	for i := range r.slots[:len(r.index)] {
		s := &r.slots[i]
		for j := range s.batches {
			b := &s.batches[j]
			p := pending{call: cl, wire: b.b, n: b.n, ack: Ack{TP: s.tp, Base: -1, Count: b.n, Time: -1}}
			if a.cfg.Compression != None {
				wire, err := pack(b.b, a.cfg.Compression)
				if err != nil {
					return nil, err
				}
				if len(wire) < len(b.b) {
					p.wire, p.codec = wire, a.cfg.Compression
				}
			}
			cl.batches = append(cl.batches, p)
		}
	}
	return cl, nil
}

// pack compresses the records of a batch behind the room for its head.
func pack(b []byte, codec Codec) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(b)/2 + batchHead)
	out.Write(b[:batchHead])
	w := compress.Compression(codec).Codec().NewWriter(&out)
	_, err := w.Write(b[batchHead:])
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return out.Bytes(), nil
}

func (a *Appender) enqueue(calls ...*call) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.c.ctx.Err() != nil {
		return false
	}
	for _, cl := range calls {
		for i := range cl.batches {
			b := &cl.batches[i]
			p := a.parts[b.ack.TP]
			if p == nil {
				p = &part{tp: b.ack.TP, generation: -1}
				a.parts[p.tp] = p
				a.c.meta.want(p.tp.Topic)
			}
			b.part = p
			p.queue = append(p.queue, b)
			if !p.scheduled {
				a.schedule(p)
			}
		}
	}
	return true
}

// schedule gives a partition to the sender of its leader, and starts that if there is none. Holds mu.
func (a *Appender) schedule(p *part) {
	addr, known := a.c.meta.leader(p.tp)
	key := senderKey{addr, known && p.tries > 0}
	s := a.senders[key]
	if s == nil {
		s = &sender{senderKey: key, wake: make(chan struct{}, 1)}
		if !a.c.start(func() { a.run(s) }) {
			return // closed: every caller learns it by itself
		}
		a.senders[key] = s
	}
	p.scheduled = true
	s.parts = append(s.parts, p)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run is the life of a sender: it ends when it has no partition left.
func (a *Appender) run(s *sender) {
	for {
		batch, wait, more := a.take(s)
		if !more {
			return
		}
		if len(batch) == 0 {
			var timer <-chan time.Time
			if wait > 0 {
				timer = time.After(wait)
			}
			select {
			case <-s.wake:
			case <-timer:
			case <-a.c.ctx.Done():
			}
			continue
		}
		if s.addr == "" {
			a.findLeaders(batch)
		} else {
			a.send(s.addr, batch)
		}
	}
}

// take picks the first batch of each partition that may be sent now, up to a request's size. If there is none, wait is the time until
// there may be one; more is false if the sender has nothing left, and it is forgotten.
func (a *Appender) take(s *sender) (batch []*pending, wait time.Duration, more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.c.ctx.Err() != nil {
		delete(a.senders, s.senderKey)
		return nil, 0, false
	}
	now := time.Now()
	size := 0
	keep := s.parts[:0]
	for _, p := range s.parts {
		if len(p.queue) == 0 { // its callers have left
			p.scheduled = false
			continue
		}
		b := p.queue[0]
		if d := p.notBefore.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
		} else if size == 0 || size+len(b.wire) <= requestLimit {
			size += len(b.wire)
			p.inFlight = true
			batch = append(batch, b)
			continue
		}
		keep = append(keep, p)
	}
	clear(s.parts[len(keep):])
	s.parts = keep // those that found no room stand first the next time
	if len(batch) == 0 && len(keep) == 0 {
		delete(a.senders, s.senderKey)
		return nil, 0, false
	}
	return batch, wait, true
}

// findLeaders asks who leads the partitions whose leader is not known, and passes them on.
func (a *Appender) findLeaders(batch []*pending) {
	err := a.c.refresh(a.c.ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range batch {
		if _, ok := a.c.meta.leader(b.part.tp); !ok {
			cause := err
			if cause == nil {
				cause = kgo.LeaderNotAvailable
				if a.c.meta.partitions(b.part.tp.Topic) == 0 {
					cause = kgo.UnknownTopicOrPartition
				}
			}
			a.again(b, cause, false)
			continue
		}
		a.release(b.part)
	}
}

// release makes a partition that was in flight ready for its next batch. Holds mu.
func (a *Appender) release(p *part) {
	p.inFlight, p.scheduled = false, false
	if len(p.queue) > 0 {
		a.schedule(p)
	}
}

// again puts a batch back in line after a failed attempt. Holds mu.
func (a *Appender) again(b *pending, err error, maybe bool) {
	p := b.part
	b.maybe, b.onWire = b.maybe || maybe, false
	if b.gone {
		p.queue = slices.Delete(p.queue, 0, 1)
		p.renew = p.renew || b.maybe
		a.release(p)
		return
	}
	p.notBefore = time.Now().Add(backoff(p.tries))
	p.tries++
	if p.tries == 20 { // about eight seconds
		a.c.log.Warn("a partition refuses writes; trying on", zap.String("topic", p.tp.Topic), zap.Int32("partition", p.tp.Partition), zap.Error(err))
	}
	p.lastErr = err
	a.release(p)
}

// finish ends a batch: written if err is nil. Holds mu.
func (a *Appender) finish(b *pending, err *PartitionError) {
	p := b.part
	if len(p.queue) == 0 || p.queue[0] != b {
		panic("BUG: a batch ends that is not the first of its partition")
	}
	p.queue = slices.Delete(p.queue, 0, 1)
	p.tries, p.lastErr, p.notBefore = 0, nil, time.Time{}
	if err != nil {
		b.ack.Err = err
		p.renew = p.renew || b.maybe
	} else {
		p.sequence = nextSequence(p.sequence, b.n)
	}
	b.leave()
	a.release(p)
}

// leave tells the caller that a batch has ended. Holds mu.
func (b *pending) leave() {
	if b.gone || b.done {
		return
	}
	b.done = true
	b.call.left--
	if b.call.left == 0 {
		b.call.ended()
	}
}

// abandon gives up what is left of a call. whole is false if a sender still uses the buffers.
func (a *Appender) abandon(cl *call, err error) (whole bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	whole = true
	for i := range cl.batches {
		b := &cl.batches[i]
		if b.done {
			continue
		}
		b.gone = true
		cause := err
		if b.part.lastErr != nil {
			cause = fmt.Errorf("%w; the last try said: %w", err, b.part.lastErr)
		}
		if b.part.inFlight && b.part.queue[0] == b {
			whole = false
		} else {
			k := slices.Index(b.part.queue, b)
			b.part.queue = slices.Delete(b.part.queue, k, k+1)
			if b.maybe { // then it was the first, and no sender has the partition
				b.part.renew = true
			}
		}
		b.ack.Err = &PartitionError{TP: b.ack.TP, Unknown: b.maybe || b.onWire, Err: cause}
	}
	return whole
}

// seal gives the batches of a request their producer ids and sequences. Batches that were sealed before stay as they are, byte by byte.
func (a *Appender) seal(batch []*pending) error {
	now := time.Now()
	for _, b := range batch {
		if b.sealed {
			continue
		}
		p := b.part // in flight, so nobody else touches these fields
		if p.generation < 0 || p.renew {
			if err := a.newProducer(p); err != nil {
				return err
			}
		}
		stamp(b.wire, b.n, b.codec, p.producer, p.epoch, p.sequence, now)
		b.sealed = true
	}
	return nil
}

// newProducer moves a partition to a producer id that it has not used before.
func (a *Appender) newProducer(p *part) error {
	a.asking <- struct{}{}
	defer func() { <-a.asking }()
	if a.generation == 0 || a.generation <= p.generation {
		// -1 asks for an id; the zero value would claim producer 0 and be fenced for ever.
		if err := fault.Before(fault.KafkaProducer); err != nil {
			return err
		}
		m, err := a.c.ask(a.c.ctx, a.c.broker(), &initproducerid.Request{ProducerID: -1, ProducerEpoch: -1, TransactionTimeoutMs: 60_000}, requestTimeout)
		if err = fault.After(fault.KafkaProducer, err); err != nil {
			return err
		}
		r := m.(*initproducerid.Response)
		if r.ErrorCode != 0 {
			return kgo.Error(r.ErrorCode)
		}
		a.producer, a.epoch = r.ProducerID, r.ProducerEpoch
		a.generation++
	}
	p.producer, p.epoch, p.generation, p.sequence = a.producer, a.epoch, a.generation, 0
	a.mu.Lock()
	p.renew = false
	a.mu.Unlock()
	return nil
}

// send makes one request and deals with its answer.
func (a *Appender) send(addr string, batch []*pending) {
	if err := a.seal(batch); err != nil {
		a.c.refresh(a.c.ctx)
		a.failAll(batch, fmt.Errorf("get a producer id: %w", err), false)
		return
	}
	if err := fault.Before(fault.KafkaProduce); err != nil {
		a.failAll(batch, err, false)
		return
	}
	k, err := a.c.grab(a.c.ctx, addr)
	if err != nil {
		a.c.refresh(a.c.ctx)
		a.failAll(batch, err, false)
		return
	}
	a.mu.Lock()
	for _, b := range batch {
		b.onWire = true
	}
	a.mu.Unlock()
	req := produceRequest(batch)
	sent := time.Now()
	m, err := a.c.askOn(a.c.ctx, k, req, requestTimeout)
	acked := time.Now()
	if err = fault.After(fault.KafkaProduce, err); err != nil {
		a.c.refresh(a.c.ctx)
		a.failAll(batch, err, true)
		return
	}
	codes := map[TP]*produce.ResponsePartition{}
	stale := false
	topics := m.(*produce.Response).Topics
	for i := range topics {
		for j := range topics[i].Partitions {
			p := &topics[i].Partitions[j]
			codes[TP{topics[i].Topic, p.Partition}] = p
			stale = stale || fateOf(kgo.Error(p.ErrorCode)) == moved
			if p.ErrorCode == 0 && p.LogAppendTime >= 0 {
				a.c.skew.add(p.LogAppendTime, sent, acked)
			}
		}
	}
	if stale {
		a.c.refresh(a.c.ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range batch {
		if r := codes[b.part.tp]; r != nil {
			a.settle(b, r)
		} else {
			a.again(b, errors.New("the broker's answer leaves this partition out"), true)
		}
	}
}

func (a *Appender) failAll(batch []*pending, err error, maybe bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range batch {
		a.again(b, err, maybe)
	}
}

// produceRequest names every partition's batch. The batches stand in one order: by topic, then as they came.
func produceRequest(batch []*pending) *rawproduce.Request {
	slices.SortStableFunc(batch, func(x, y *pending) int { return strings.Compare(x.part.tp.Topic, y.part.tp.Topic) })
	req := &rawproduce.Request{Acks: -1, Timeout: brokerTimeout}
	for _, b := range batch {
		k := len(req.Topics)
		if k == 0 || req.Topics[k-1].Topic != b.part.tp.Topic {
			req.Topics = append(req.Topics, rawproduce.RequestTopic{Topic: b.part.tp.Topic})
			k++
		}
		t := &req.Topics[k-1]
		t.Partitions = append(t.Partitions, rawproduce.RequestPartition{
			Partition: b.part.tp.Partition,
			RecordSet: protocol.RawRecordSet{Reader: io.Reader(bytes.NewReader(b.wire))},
		})
	}
	return req
}

// settle deals with what the broker said of one batch. Holds mu.
func (a *Appender) settle(b *pending, r *produce.ResponsePartition) {
	code := kgo.Error(r.ErrorCode)
	err := error(code)
	if r.ErrorMessage != "" {
		err = fmt.Errorf("%w (%s)", code, r.ErrorMessage)
	}
	switch fateOf(code) {
	case written:
		if r.ErrorCode == 0 {
			b.ack.Base, b.ack.Time = r.BaseOffset, r.LogAppendTime
		}
		a.finish(b, nil)
	case rejected:
		a.finish(b, &PartitionError{TP: b.part.tp, Rejected: true, Err: err})
	case forgotten:
		// The broker does not know our producer id or its sequence any more. The batch was not written by this attempt; whether by an
		// earlier one, nobody can say now. Under a new id it will be written for sure.
		if b.maybe {
			a.c.log.Warn("the broker forgot our producer id while the fate of a batch was open: it may be written twice",
				zap.String("topic", b.part.tp.Topic), zap.Int32("partition", b.part.tp.Partition), zap.Int("records", b.n))
		}
		b.sealed, b.part.renew = false, true
		a.again(b, err, false)
	case uncertain:
		a.again(b, err, true)
	default:
		a.again(b, err, false)
	}
}

// fate is what an error code of a produce answer says about its batch.
type fate int

const (
	written   fate = iota
	moved          // not written: the leader is elsewhere, or not ready
	uncertain      // perhaps written
	refused        // not written, for now
	forgotten      // not written under this producer id
	rejected       // never will be
)

// fateOf classifies the codes of produce answers.
func fateOf(code kgo.Error) fate {
	switch code {
	case 0, kgo.DuplicateSequenceNumber: // it is there, too long ago for the broker to tell where
		return written
	case kgo.UnknownTopicOrPartition, kgo.LeaderNotAvailable, kgo.NotLeaderForPartition, kgo.BrokerNotAvailable, kgo.ReplicaNotAvailable,
		kgo.FencedLeaderEpoch, kgo.UnknownLeaderEpoch, kgo.KafkaStorageError, kgo.UnknownTopicID, kgo.InconsistentTopicID:
		return moved
	case kgo.RequestTimedOut, kgo.NotEnoughReplicasAfterAppend, kgo.NetworkException, kgo.Unknown:
		return uncertain
	case kgo.OutOfOrderSequenceNumber, kgo.UnknownProducerId, kgo.InvalidProducerEpoch, kgo.ProducerFenced, kgo.InvalidProducerIDMapping:
		return forgotten
	case kgo.MessageSizeTooLarge, kgo.RecordListTooLarge, kgo.InvalidRecord, kgo.InvalidTimestamp, kgo.InvalidTopic, kgo.InvalidRequest,
		kgo.UnsupportedForMessageFormat, kgo.UnsupportedCompressionType, kgo.PolicyViolation, kgo.InvalidRequiredAcks:
		return rejected
	}
	return refused // no right to write, too few replicas, throttled: an operator's matter, not the records' fault
}
