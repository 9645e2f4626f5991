package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Sources are where an audit reads.
type Sources struct {
	Kafka   *kafka.Client
	Routers string // the routers' consumer group, with its prefix
	// Waiting calls fn with every task of a subscription that no deliverer has finished. What their commits say besides the offset is for the deliverer's
	// room to read.
	Waiting func(ctx context.Context, subscription string, watch func(read, total int64), fn func(*schemas.Task)) error
}

// Watch says how far the reading has come: which step, records read, and of how many. It may be nil.
type Watch func(step string, read, total int64)

// Verify compares what a subscription was owed of the events that the broker appended from from on and before to with what became of it. The stretch may
// reach up to now.
func Verify(ctx context.Context, s Sources, sub *schemas.Subscription, from, to time.Time, watch Watch) (*Report, error) {
	if watch == nil {
		watch = func(string, int64, int64) {}
	}
	a := &auditor{Sources: s, sub: sub, topics: s.Kafka.Topics(), watch: watch, readers: map[schemas.Frame]*schemas.EventReader{}}
	catchUps, err := a.catchUps(ctx)
	if err != nil {
		return nil, err
	}
	a.books = NewBooks(Stretch{Subscription: sub, From: from.UnixMilli(), To: to.UnixMilli(), CatchUps: catchUps})
	if err := a.events(ctx); err != nil {
		return nil, err
	}
	if err := a.positions(ctx); err != nil {
		return nil, err
	}
	a.books.Looked = s.Kafka.BrokerNow().UnixMilli()
	if err := s.Waiting(ctx, sub.ID, a.step("what waits"), a.books.Waiting); err != nil {
		return nil, err
	}
	if err := a.ends(ctx); err != nil {
		return nil, err
	}
	if a.books.Missing() > 0 {
		if err := a.written(ctx); err != nil {
			return nil, err
		}
	}
	r := a.books.Report()
	a.note(r)
	return r, nil
}

// auditor fills the books.
type auditor struct {
	Sources
	sub     *schemas.Subscription
	topics  kafka.Names
	watch   Watch
	books   *Books
	readers map[schemas.Frame]*schemas.EventReader // nil: nobody can read it
	gone    []string                               // what retention has removed of the stretch
}

func (a *auditor) step(name string) func(read, total int64) {
	return func(read, total int64) { a.watch(name, read, total) }
}

// catchUps reads the subscription's catch-ups, without their progress.
func (a *auditor) catchUps(ctx context.Context) ([]*CatchUp, error) {
	found := map[string]*CatchUp{}
	err := a.whole(ctx, a.topics.Replays, func(_ kafka.TP, r *kafka.Record) error {
		if r.Value == nil {
			delete(found, string(r.Key))
			return nil
		}
		c := &CatchUp{Progress: map[kafka.TP]schemas.Progress{}}
		if err := schemas.DecodeReplay(r.Value, &c.Replay); err != nil {
			return err
		}
		if have := found[c.ID]; c.Kind == schemas.ReplayCatchUp && c.Subscription == a.sub.ID && (have == nil || !have.over()) {
			found[c.ID] = c
		}
		return nil
	})
	out := make([]*CatchUp, 0, len(found))
	for _, c := range found {
		out = append(out, c)
	}
	return out, err
}

// events reads the log.
func (a *auditor) events(ctx context.Context) error {
	b, spans := a.books, map[kafka.TP]span{}
	for _, topic := range a.topics.EventTopics() {
		firsts, begins, ends, err := a.bounds(ctx, topic, b.From, b.To+margin)
		if err != nil {
			return err
		}
		for p, end := range ends {
			tp := kafka.TP{Topic: topic, Partition: p}
			b.Read[tp] = Span{First: firsts[p], Begin: begins[p], End: max(end, begins[p])}
			spans[tp] = span{begins[p], end}
		}
	}
	first := map[kafka.TP]bool{}
	return a.scan(ctx, spans, a.step("events"), func(tp kafka.TP, r *kafka.Record) error {
		if !first[tp] {
			first[tp] = true
			if start := b.Read[tp].First; start > 0 && r.Offset == start && r.Time > b.From {
				a.gone = append(a.gone, fmt.Sprintf("%s/%d: the offsets below %d are gone; the first event that is left was appended at %s", tp.Topic, tp.Partition,
					start, stamp(r.Time)))
			}
		}
		return a.event(ctx, tp, r)
	})
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// event reads one event, if it lies in the stretch.
func (a *auditor) event(ctx context.Context, tp kafka.TP, r *kafka.Record) error {
	if r.Time < a.books.From || r.Time >= a.books.To {
		return nil
	}
	src := schemas.Source{Topic: tp.Topic, Partition: tp.Partition, Offset: r.Offset, Time: r.Time}
	frame, body, err := schemas.Unframe(r.Value)
	var m schemas.Meta
	if err == nil {
		var reader *schemas.EventReader
		if reader, err = a.reader(ctx, frame); err != nil {
			return fmt.Errorf("%s/%d@%d: %w", tp.Topic, tp.Partition, r.Offset, err)
		}
		if reader == nil {
			a.books.Unreadable(src)
			return nil
		}
		_, err = reader.Meta(body, &m)
	}
	if err != nil {
		a.books.Unreadable(src)
		return nil
	}
	if own := a.sub.Company; own != schemas.AnyCompany && string(m.CompanyID) != own {
		a.books.Foreign(r.Time)
		return nil
	}
	a.books.Event(Event{Source: src, ID: string(m.EventID), Type: string(m.EventType), Company: string(m.CompanyID), Entity: string(m.EntityID)})
	return nil
}

// reader finds the reader of a writer's schema; nil: there is none. An error means that nobody knows: the registry does not answer.
func (a *auditor) reader(ctx context.Context, f schemas.Frame) (*schemas.EventReader, error) {
	if r, known := a.readers[f]; known {
		return r, nil
	}
	schema, known := schemas.CompiledIn(f.Fingerprint)
	if f.Confluent {
		known = false
		if registry := a.Kafka.Registry(); registry != nil {
			text, err := registry.SchemaByID(ctx, f.ID)
			switch {
			case errors.Is(err, kafka.ErrUnknownSchema):
			case err != nil:
				return nil, err
			default:
				schema, err = schemas.Parse(text)
				known = err == nil
			}
		}
	}
	var reader *schemas.EventReader
	if known {
		reader, _ = schemas.NewEventReader(schema) // one that is no event's is nil
	}
	a.readers[f] = reader
	return reader, nil
}

// positions asks how far routers and catch-ups have come.
func (a *auditor) positions(ctx context.Context) error {
	var tps []kafka.TP
	for tp := range a.books.Read {
		tps = append(tps, tp)
	}
	committed, err := a.Kafka.CommittedOffsets(ctx, a.Routers, tps)
	if err != nil {
		return err
	}
	for tp, c := range committed {
		a.books.Routed[tp] = max(c.Offset, 0)
	}
	if len(a.books.CatchUps) == 0 {
		return nil
	}
	return a.whole(ctx, a.topics.Progress, func(_ kafka.TP, r *kafka.Record) error {
		var p schemas.Progress
		if r.Value == nil {
			return nil
		}
		if err := schemas.DecodeProgress(r.Value, &p); err != nil {
			return err
		}
		for _, c := range a.books.CatchUps {
			tp := kafka.TP{Topic: p.Topic, Partition: p.Partition}
			if have := c.Progress[tp]; c.ID == p.Replay && !have.Done && (p.Done || p.Next >= have.Next) { // what a former owner writes late sets nothing back
				c.Progress[tp] = p
			}
		}
		return nil
	})
}

// ends reads attempts, dead letters and what is undecodable.
func (a *auditor) ends(ctx context.Context) error {
	var err error
	b := a.books
	b.Attempts, err = a.lane(ctx, a.topics.Attempts, "attempts", func(_ kafka.TP, r *kafka.Record) error {
		var at schemas.Attempt
		if err := schemas.DecodeAttempt(r.Value, &at); err != nil {
			return err
		}
		b.Attempt(&at)
		return nil
	})
	if err != nil {
		return err
	}
	b.Letters, err = a.lane(ctx, a.topics.Dead, "dead letters", func(_ kafka.TP, r *kafka.Record) error {
		var d schemas.Dead
		if err := schemas.DecodeDead(r.Value, &d); err != nil {
			return err
		}
		b.Dead(&d)
		return nil
	})
	if err != nil {
		return err
	}
	_, begins, ends, err := a.bounds(ctx, a.topics.Undecodable, b.From-margin, kafka.Latest)
	if err != nil {
		return err
	}
	spans := map[kafka.TP]span{}
	for p, end := range ends {
		spans[kafka.TP{Topic: a.topics.Undecodable, Partition: p}] = span{begins[p], end}
	}
	return a.scan(ctx, spans, a.step("undecodable"), func(_ kafka.TP, r *kafka.Record) error {
		if src, ok := sourceOf(r); ok {
			b.Undecodable(src)
		}
		return nil
	})
}

// sourceOf reads where the event lies that a record of `undecodable` keeps, from the headers that the router put behind its own: the last of a name counts.
func sourceOf(r *kafka.Record) (s schemas.Source, ok bool) {
	found := map[string]bool{}
	for _, h := range r.Headers {
		name, ours := strings.CutPrefix(h.Key, "hookferry-source-")
		if !ours {
			continue
		}
		n, err := strconv.ParseInt(string(h.Value), 10, 64)
		if err != nil && name != "topic" { // a publisher's
			continue
		}
		switch name {
		case "topic":
			s.Topic = string(h.Value)
		case "partition":
			s.Partition = int32(n)
		case "offset":
			s.Offset = n
		case "time":
			s.Time = n
		default:
			continue
		}
		found[name] = true
	}
	return s, len(found) == 4
}

// written looks for records of what is missing, to say where it was lost.
func (a *auditor) written(ctx context.Context) error {
	for _, topic := range a.topics.LaneTopics() {
		kept, err := a.lane(ctx, topic, "tasks", func(tp kafka.TP, r *kafka.Record) error {
			var t schemas.Task
			if schemas.DecodeTask(r.Value, &t) == nil {
				a.books.Written(&t, Place{tp.Topic, tp.Partition, r.Offset})
			}
			return nil
		})
		if err != nil {
			return err
		}
		if topic == a.topics.Retry || topic == a.topics.Replay {
			a.books.Tasks = max(a.books.Tasks, kept)
		}
	}
	return nil
}

// lane reads the partition of a topic that holds the subscription's records, from the beginning of the stretch to its end as it is now. kept is the time of
// the oldest record that is kept, 0 if none has been removed.
func (a *auditor) lane(ctx context.Context, topic, name string, fn func(kafka.TP, *kafka.Record) error) (kept int64, err error) {
	firsts, begins, ends, err := a.bounds(ctx, topic, a.books.From-margin, kafka.Latest)
	if err != nil {
		return 0, err
	}
	tp := kafka.TP{Topic: topic, Partition: kafka.Partition([]byte(a.sub.ID), len(ends))}
	first, begin := firsts[tp.Partition], begins[tp.Partition]
	if first > 0 && begin == first {
		kept = a.books.To // until a record says otherwise: all of it is gone
	}
	err = a.scan(ctx, map[kafka.TP]span{tp: {begin, ends[tp.Partition]}}, a.step(name), func(tp kafka.TP, r *kafka.Record) error {
		if first > 0 && kept == a.books.To && begin == first {
			kept = min(kept, r.Time)
		}
		return fn(tp, r)
	})
	return kept, err
}

// note says what the books cannot.
func (a *auditor) note(r *Report) {
	s := a.sub
	say := func(format string, args ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, args...)) }
	if s.Version > 1 && s.UpdatedAt > a.books.From {
		say("the subscription was changed at %s; what was owed before is told by its patterns as they stand now", stamp(s.UpdatedAt))
	}
	const most = 5
	for _, g := range a.gone[:min(most, len(a.gone))] {
		say("%s", g)
	}
	if n := len(a.gone) - most; n > 0 {
		say("%d partitions more have lost events of the stretch to retention", n)
	}
	if r.Unknown > 0 && a.books.Attempts > 0 {
		say("attempts are kept from %s on: what is older and left no other trace is unknown", stamp(a.books.Attempts))
	}
	if r.Unreadable > 0 {
		say("%d events of the stretch stand in undecodable, and nobody can tell whose they are: hookferry undecodable list", r.Unreadable)
	}
	if n := int(r.GapCount) - len(r.Gaps); n > 0 {
		say("%d gaps more are not listed", n)
	}
	if n := int(r.GhostCount) - len(r.Ghosts); n > 0 {
		say("%d ghosts more are not listed", n)
	}
}

// span is what to read of a partition: offsets from begin on and before end.
type span struct{ begin, end int64 }

// bounds are the first offset of each partition of a topic, the first not older than from, and the first not older than to.
func (a *auditor) bounds(ctx context.Context, topic string, from, to int64) (firsts, begins, ends map[int32]int64, err error) {
	if firsts, err = a.Kafka.Offsets(ctx, topic, kafka.Earliest); err != nil {
		return
	}
	if begins, err = a.Kafka.Offsets(ctx, topic, max(from, 0)); err != nil {
		return
	}
	ends, err = a.Kafka.Offsets(ctx, topic, to)
	return
}

// whole reads a topic from its start to its end as it is now.
func (a *auditor) whole(ctx context.Context, topic string, fn func(kafka.TP, *kafka.Record) error) error {
	firsts, _, ends, err := a.bounds(ctx, topic, 0, kafka.Latest)
	if err != nil {
		return err
	}
	spans := map[kafka.TP]span{}
	for p, end := range ends {
		spans[kafka.TP{Topic: topic, Partition: p}] = span{firsts[p], end}
	}
	return a.scan(ctx, spans, func(int64, int64) {}, fn)
}

var errRead = errors.New("all is read")

// scan calls fn with the records of the spans, in order per partition. A log may hold nothing just before its end, because it was compacted or a
// transaction ended there: an empty answer at the high watermark ends a partition, too.
func (a *auditor) scan(ctx context.Context, spans map[kafka.TP]span, watch func(read, total int64), fn func(kafka.TP, *kafka.Record) error) error {
	pos, left, read, total := map[kafka.TP]int64{}, map[kafka.TP]int64{}, int64(0), int64(0)
	for tp, s := range spans {
		if s.begin < s.end {
			pos[tp], left[tp] = s.begin, s.end
			total += s.end - s.begin
		}
	}
	if len(pos) == 0 {
		return nil
	}
	at := maps.Clone(pos)
	f := a.Kafka.NewFetcher(kafka.FetchConfig{MaxWait: 100 * time.Millisecond, Empty: true,
		OutOfRange: func(_ kafka.TP, _, start, _ int64) (int64, bool) { return start, true }})
	f.Assign(pos)
	err := f.Run(ctx, func(ctx context.Context, bs []kafka.Batch) error {
		for i := range bs {
			b := &bs[i]
			end, open := left[b.TP]
			if !open {
				continue
			}
			for j := range b.Records {
				r := &b.Records[j]
				if r.Offset >= end {
					break
				}
				if err := fn(b.TP, r); err != nil {
					return fmt.Errorf("%s/%d@%d: %w", b.Topic, b.Partition, r.Offset, err)
				}
			}
			read += min(b.Next, end) - at[b.TP]
			at[b.TP] = b.Next
			if b.Next >= end || a.Kafka.LogEnds(ctx, b) {
				delete(left, b.TP)
			}
		}
		watch(read, total)
		if len(left) == 0 {
			return errRead
		}
		return nil
	})
	switch {
	case errors.Is(err, errRead):
		return nil
	case err == nil:
		return ctx.Err()
	}
	return err
}
