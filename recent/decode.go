package recent

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Why a record of the topic of bookings is passed over, beside the reasons of schemas.DataError. They are a label of the metric.
const (
	skipEmpty         = "empty"
	skipTooLarge      = "too_large"
	skipNoRegistry    = "no_registry"
	skipUnknownSchema = "unknown_schema"
	skipBadSchema     = "schema_unusable"
	skipWrongType     = "event_type_unknown"
	skipBadMeta       = "meta_invalid"
	skipUndecodable   = "undecodable"
)

const (
	askAgain   = time.Second      // a registry that is down
	askLost    = 10 * time.Second // for a schema that the registry did not know
	maxReaders = 10_000           // above it, what is lost is forgotten: ids may be garbage
)

// decoder turns records into changes. One goroutine uses it.
type decoder struct {
	registry *kafka.Registry // nil: none
	log      *zap.Logger
	only     string // a company; empty: all
	readers  map[schemas.Frame]*writer
	waiting  func(bool) // says that it waits for the registry, or no longer

	lines          lines
	meta           schemas.Meta
	data, previous []byte
}

// writer is one writer's schema.
type writer struct {
	reader *schemas.EventReader // nil: lost
	reason string               // why
	asked  time.Time
}

// change reads one record. An empty reason and ok=false say that it is of another company than the one asked for. An error is ctx's: a registry that is
// down is waited for, because what is passed over is missing until the next start.
func (d *decoder) change(ctx context.Context, tp kafka.TP, rec *kafka.Record) (ch Change, ok bool, reason string, err error) {
	switch {
	case rec.LeftOut > 0 || len(rec.Value) > schemas.MaxInput:
		return ch, false, skipTooLarge, nil
	case rec.Value == nil:
		return ch, false, skipEmpty, nil
	}
	frame, avro, err := schemas.Unframe(rec.Value)
	if err != nil {
		return ch, false, reasonOf(err), nil
	}
	w, err := d.writerOf(ctx, frame)
	if err != nil || w.reader == nil {
		return ch, false, w.reason, err
	}
	m := &d.meta
	rest, err := w.reader.Meta(avro, m)
	if err != nil {
		return ch, false, reasonOf(err), nil
	}
	if d.only != "" && string(m.CompanyID) != d.only {
		return ch, false, "", nil
	}
	typ, known := schemas.EventTypeByName(string(m.EventType))
	if !known || typ.Entity != "booking" {
		return ch, false, skipWrongType, nil
	}
	if !validID(m.CompanyID) || !validID(m.EntityID) {
		return ch, false, skipBadMeta, nil
	}
	if d.data, rest, err = w.reader.DataJSON(d.data[:0], rest); err == nil {
		d.previous, err = w.reader.PreviousJSON(d.previous[:0], rest) // to its last byte: what the router calls undecodable is not shown as a booking
	}
	if err != nil {
		return ch, false, reasonOf(err), nil
	}
	encoded, err := d.lines.lineOf(m, typ.Name, d.data, rec.Time).AppendAvro(make([]byte, 0, 512))
	if err != nil { // a time that Go has no way to write
		return ch, false, skipUndecodable, nil
	}
	return Change{
		Position: Position{rec.Time, tp.Partition, rec.Offset}, Company: string(m.CompanyID), Booking: string(m.EntityID), Version: m.EntityVersion,
		Line:  append(make([]byte, 0, len(encoded)), encoded...), // kept for long: no byte more than it has
		About: About{described(m.CompanyName), described(m.TenantID), described(m.SystemURL)},
	}, true, "", nil
}

// validID: the ids that the router takes.
func validID(id []byte) bool { return len(id) > 0 && len(id) <= longestID && utf8.Valid(id) }

func described(b []byte) string { return clip(strings.ToValidUTF8(string(b), "\uFFFD"), longestID) }

func reasonOf(err error) string {
	var data *schemas.DataError
	if errors.As(err, &data) {
		return data.Reason
	}
	return skipUndecodable
}

// writerOf finds a writer's schema.
func (d *decoder) writerOf(ctx context.Context, f schemas.Frame) (*writer, error) {
	w := d.readers[f]
	if w != nil && (w.reader != nil || w.reason != skipUnknownSchema || !f.Confluent || time.Since(w.asked) < askLost) {
		return w, nil
	}
	if w == nil && len(d.readers) >= maxReaders {
		for f, w := range d.readers {
			if w.reader == nil {
				delete(d.readers, f)
			}
		}
	}
	first := w == nil
	w = &writer{asked: time.Now()}
	schema, reason, err := d.schemaOf(ctx, f)
	if err != nil {
		return w, err
	}
	if w.reason = reason; schema != nil {
		if w.reader, err = schemas.NewEventReader(schema); err != nil {
			w.reason = skipBadSchema
		}
	}
	if w.reader == nil && first {
		d.log.Warn("bookings with a schema that cannot be used are passed over", zap.Uint32("schema_id", f.ID), zap.String("reason", w.reason))
	}
	d.readers[f] = w
	return w, nil
}

func (d *decoder) schemaOf(ctx context.Context, f schemas.Frame) (*schemas.Schema, string, error) {
	if !f.Confluent {
		if s, ok := schemas.CompiledIn(f.Fingerprint); ok {
			return s, "", nil
		}
		return nil, skipUnknownSchema, nil
	}
	if d.registry == nil {
		return nil, skipNoRegistry, nil
	}
	for said := false; ; said = true {
		text, err := d.registry.SchemaByID(ctx, f.ID)
		if said && (ctx.Err() != nil || !errors.Is(err, kafka.ErrRegistryDown)) {
			d.waiting(false)
		}
		switch {
		case ctx.Err() != nil:
			return nil, "", ctx.Err()
		case err == nil:
			s, err := schemas.Parse(text)
			if err != nil {
				return nil, skipBadSchema, nil
			}
			return s, "", nil
		case errors.Is(err, kafka.ErrUnknownSchema):
			return nil, skipUnknownSchema, nil
		}
		if !said {
			d.waiting(true)
			d.log.Error("the schema registry does not answer: the bookings wait; is it up, and is registry.url right?", zap.Uint32("schema_id", f.ID), zap.Error(err))
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
		}
	}
}
