package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Producer publishes events. Make one per program and share it.
type Producer struct {
	cfg      Config
	client   *kafka.Client
	owned    bool // the client is ours to close
	appender *kafka.Appender
	frames   map[string][]byte // by entity: what stands before the body

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu         sync.Mutex
	closed     bool
	partitions map[string]int // by entity, once known
	feeds      map[kafka.TP]*feed
	underWay   map[*Pending]struct{}
	buffered   int           // bytes of events that wait for their acknowledgement
	blocked    int           // calls that wait for room
	freed      chan struct{} // closed, and made anew, when they should look again
	work       sync.WaitGroup
}

// feed is the events on their way to one partition. Guarded by Producer.mu. One append at a time keeps their order.
type feed struct {
	tp      kafka.TP
	waiting []*item
	sending bool // a goroutine works on it
}

// item is one event on its way.
type item struct {
	pending *Pending
	index   int
	id      string
	key     []byte
	value   []byte
	headers []kafka.Header
	state   itemState // guarded by Producer.mu
}

type itemState uint8

const (
	itemWaiting itemState = iota
	itemSending
	itemEnded // its fate stands in its Pending
)

// New checks the configuration and makes a Producer. With a registry it registers the schemas first and tries that until ctx ends; without one it
// makes no round trip.
func New(ctx context.Context, cfg Config) (*Producer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	client, err := kafka.Open(cfg.kafka(), kafka.Options{Dial: cfg.Dial, Log: cfg.Log, ClientID: cfg.ClientID})
	if err != nil {
		return nil, err
	}
	p, err := Over(ctx, client, cfg)
	if err != nil {
		client.Close()
		return nil, err
	}
	p.owned = true
	return p, nil
}

// Over makes a Producer on a client that the caller has and keeps; of cfg, only what is not the client's own matters. For the commands of this module.
func Over(ctx context.Context, client *kafka.Client, cfg Config) (*Producer, error) {
	if err := cfg.validateOwn(); err != nil {
		return nil, err
	}
	p := &Producer{
		cfg: cfg, client: client, appender: client.NewAppender(kafka.AppenderConfig{Compression: codecs[cfg.Compression]}),
		frames: map[string][]byte{}, partitions: map[string]int{}, feeds: map[kafka.TP]*feed{}, underWay: map[*Pending]struct{}{}, freed: make(chan struct{}),
	}
	entities := cfg.Entities
	registry := client.Registry()
	switch {
	case registry == nil:
		entities = slices.Concat(schemas.Entities(), entities)
	case len(entities) == 0:
		entities = schemas.Entities()
	}
	for _, e := range entities {
		if registry == nil {
			p.frames[e] = schemas.AppendSingleObject(nil, schemas.EventSchema(e).Fingerprint())
			continue
		}
		id, err := register(ctx, registry, client.Topics().Events[e]+"-value", schemas.EventSchemaText(e))
		if err != nil {
			return nil, err
		}
		p.frames[e] = schemas.AppendConfluent(nil, id)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// register tries as long as the registry is down and ctx allows. If ctx's deadline cuts a try, the one before it says more about why.
func register(ctx context.Context, r *kafka.Registry, subject, text string) (uint32, error) {
	var before error
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		id, err := r.Register(ctx, subject, text)
		if err == nil {
			return id, nil
		}
		if errors.Is(err, kafka.ErrRegistryDown) {
			before = err
			select {
			case <-time.After(wait):
				continue
			case <-ctx.Done():
			}
		} else if before != nil && errors.Is(err, context.DeadlineExceeded) {
			err = before
		}
		return 0, fmt.Errorf("register the schema %s: %w", subject, err)
	}
}

// Publish hands events over and waits until each is accepted, rejected, or its fate must be given up. The error, if any, is an *Error.
//
// What is missing in an event's meta and follows from its type (entity, action, ids, schema version), and the time of publishing, is filled in, in the
// event itself; the rest must be there. An event must not be changed or published elsewhere until Publish returns.
//
// If ctx ends, Publish returns at once: events that were not sent yet are rejected, those under way unknown.
func (p *Producer) Publish(ctx context.Context, events ...schemas.Event) error {
	return p.Start(ctx, events...).Wait(ctx)
}

// Start hands events over and returns without waiting for their acknowledgements; only while MaxBuffered bytes are under way it blocks. The events must
// be left alone until it returns: they are encoded by then. An event that ctx kept from being handed over is rejected.
func (p *Producer) Start(ctx context.Context, events ...schemas.Event) *Pending {
	w := &Pending{p: p, count: len(events), left: len(events), done: make(chan struct{})}
	if len(events) == 0 {
		close(w.done)
		return w
	}
	p.mu.Lock()
	p.underWay[w] = struct{}{}
	p.mu.Unlock()
	now := time.Now()
	for i, ev := range events {
		it, tp, fault := p.prepare(ctx, ev, now)
		if fault == nil {
			it.pending, it.index = w, i
			if err := p.handOver(ctx, it, tp); err != nil {
				fault = &EventError{Fate: ErrRejected, Retry: !errors.Is(err, ErrClosed), Err: err, code: codeNotAccepted}
			}
		}
		if fault != nil {
			fault.Index, fault.EventID = i, ev.EventMeta().EventID
			p.mu.Lock()
			w.end(fault)
			p.mu.Unlock()
		}
	}
	return w
}

const (
	codeInvalid     = "event_invalid"
	codeTooLarge    = "event_too_large"
	codeNotAccepted = "event_not_accepted"
	codeUnknown     = "event_fate_unknown"
)

// prepare turns an event into a record, or says what is wrong with it.
func (p *Producer) prepare(ctx context.Context, ev schemas.Event, now time.Time) (*item, kafka.TP, *EventError) {
	complete(ev, now)
	frame, ok := p.frames[ev.EntityName()]
	if !ok {
		err := fmt.Errorf("the schema of %s was not registered at the start: name it in Config.Entities", ev.EntityName())
		return nil, kafka.TP{}, &EventError{Fate: ErrRejected, Err: err, code: codeInvalid}
	}
	if err := check(ev); err != nil {
		return nil, kafka.TP{}, &EventError{Fate: ErrRejected, Err: err, code: codeInvalid}
	}
	m := ev.EventMeta()
	value, err := ev.AppendAvro(append(make([]byte, 0, 1024), frame...))
	if err != nil {
		return nil, kafka.TP{}, &EventError{Fate: ErrRejected, Err: err, code: codeInvalid}
	}
	if len(value) > p.cfg.MaxEventBytes {
		err := fmt.Errorf("%d bytes are more than the %d that an event may be", len(value), p.cfg.MaxEventBytes)
		return nil, kafka.TP{}, &EventError{Fate: ErrRejected, Err: err, code: codeTooLarge}
	}
	n, err := p.partitionCount(ctx, ev.EntityName())
	if err != nil {
		return nil, kafka.TP{}, &EventError{Fate: ErrRejected, Retry: true, Err: err, code: codeNotAccepted}
	}
	it := &item{id: m.EventID, key: Key(m.CompanyID, m.EntityID), value: value, headers: headers(m)}
	return it, kafka.TP{Topic: p.client.Topics().Events[ev.EntityName()], Partition: kafka.Partition(it.key, n)}, nil
}

// partitionCount asks once per entity: the counts of a deployment never change.
func (p *Producer) partitionCount(ctx context.Context, entity string) (int, error) {
	p.mu.Lock()
	n := p.partitions[entity]
	p.mu.Unlock()
	if n > 0 {
		return n, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.SendTimeout)
	defer cancel()
	stop := context.AfterFunc(p.ctx, cancel)
	defer stop()
	n, err := p.client.PartitionCount(ctx, p.client.Topics().Events[entity])
	if err != nil {
		if p.ctx.Err() != nil {
			return 0, ErrClosed
		}
		return 0, err
	}
	p.mu.Lock()
	p.partitions[entity] = n
	p.mu.Unlock()
	return n, nil
}

// handOver puts a record in line for its partition, when there is room.
func (p *Producer) handOver(ctx context.Context, it *item, tp kafka.TP) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && p.buffered > 0 && p.buffered+len(it.value) > p.cfg.MaxBuffered {
		freed := p.freed
		p.blocked++
		p.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
		}
		p.mu.Lock()
		p.blocked--
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if p.closed {
		return ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.buffered += len(it.value)
	f := p.feeds[tp]
	if f == nil {
		f = &feed{tp: tp}
		p.feeds[tp] = f
	}
	f.waiting = append(f.waiting, it)
	it.pending.items = append(it.pending.items, it)
	if !f.sending {
		f.sending = true
		p.work.Go(func() { p.send(f) })
	}
	return nil
}

// appendBytes is about what one append of a feed takes: one batch of the partition.
const appendBytes = 800_000

// send works off a feed until it is empty.
func (p *Producer) send(f *feed) {
	var records kafka.Records
	for {
		batch := p.take(f)
		if len(batch) == 0 {
			return
		}
		for _, it := range batch {
			records.Add(f.tp, it.key, it.headers, it.value)
		}
		ctx, cancel := context.WithTimeout(p.ctx, p.cfg.SendTimeout)
		acks, err := p.appender.Append(ctx, &records)
		cancel()
		p.settle(batch, acks, err)
	}
}

// take moves the next items of a feed to sending. None: the feed is empty and its goroutine must end.
func (p *Producer) take(f *feed) []*item {
	p.mu.Lock()
	defer p.mu.Unlock()
	var batch []*item
	size, n := 0, 0
	for _, it := range f.waiting {
		if it.state == itemWaiting && len(batch) > 0 && size+len(it.value) > appendBytes {
			break
		}
		n++
		if it.state != itemWaiting { // its caller has left
			p.free(it)
			continue
		}
		it.state = itemSending
		size += len(it.value)
		batch = append(batch, it)
	}
	rest := copy(f.waiting, f.waiting[n:])
	clear(f.waiting[rest:])
	f.waiting = f.waiting[:rest]
	f.sending = len(batch) > 0
	return batch
}

// settle tells each item of an append what became of it. The acks cover the batch in order, several items each.
func (p *Producer) settle(batch []*item, acks []kafka.Ack, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := 0
	for _, a := range acks {
		for range a.Count {
			p.finish(batch[next], a.Err)
			next++
		}
	}
	for ; next < len(batch); next++ { // an append that failed before there were batches
		p.finish(batch[next], err)
	}
}

// finish ends an item that was sent. Holds mu.
func (p *Producer) finish(it *item, err error) {
	p.free(it)
	if it.state == itemEnded {
		return // its caller has left, with "unknown"
	}
	it.state = itemEnded
	if err == nil {
		it.pending.end(nil)
		return
	}
	fault := &EventError{Index: it.index, EventID: it.id, Fate: ErrRejected, Retry: true, Err: err, code: codeNotAccepted}
	if p.ctx.Err() != nil {
		fault.Err = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	var pe *kafka.PartitionError
	if errors.As(err, &pe) {
		switch {
		case pe.Unknown:
			fault.Fate, fault.code = ErrUnknown, codeUnknown
		case pe.Rejected:
			fault.Retry, fault.code = false, codeInvalid
		}
	}
	it.pending.end(fault)
}

// free gives back the room of an item. Holds mu.
func (p *Producer) free(it *item) {
	p.buffered -= len(it.value)
	p.lookAgain()
}

// lookAgain wakes the calls that wait for room. Holds mu.
func (p *Producer) lookAgain() {
	if p.blocked > 0 {
		close(p.freed)
		p.freed = make(chan struct{})
	}
}

// Flush waits until all that anyone handed over before has its fate, or ctx ends. The fates go to those who published.
func (p *Producer) Flush(ctx context.Context) error {
	p.mu.Lock()
	waits := make([]*Pending, 0, len(p.underWay))
	for w := range p.underWay {
		waits = append(waits, w)
	}
	p.mu.Unlock()
	for _, w := range waits {
		select {
		case <-w.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Close takes no more events, waits until ctx ends for those under way, gives up the rest (their callers learn which fate is unknown), and returns when
// all that the Producer started has ended. The error is ctx's, if something was given up.
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.lookAgain()
	p.mu.Unlock()
	err := p.Flush(ctx)
	p.cancel()
	p.work.Wait()
	if p.owned {
		p.client.Close()
	}
	return err
}
