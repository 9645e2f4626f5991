package router

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// resolver finds the reader for the schema that a record was written with. What is compiled in it knows at once; a registry's ids are asked for in
// goroutines, one per id, so that nobody waits for the registry but the partition that needs the answer:
//
//	first record with id 7 ──▶ ask ──▶ known ─────────────▶ ready, for ever
//	                            ▲ │──▶ down ── 1 s ──┐
//	                            └─┴──▶ unknown ─ 1 s ─┴──▶ unknown for UnknownSchemaWait: lost
//
// Lost is not for ever: a schema may be registered late. Records that come later go to undecodable at once, but the registry is asked again
// behind their back, and once it knows the id the next ones are routed.
//
// An unknown fingerprint has nobody to be asked. It waits as long, because the partition may move to a newer release meanwhile.
type resolver struct {
	registry *kafka.Registry // nil: none
	wait     time.Duration
	log      *zap.Logger
	changed  func(*writer) // called without the lock when a writer is ready or lost

	ctx context.Context // of Run: the askers end with it
	wg  sync.WaitGroup

	mu      sync.Mutex
	writers map[schemas.Frame]*writer
}

// writer is one writer's schema. Its fields are guarded by resolver.mu, but for reader, which is read without once ready was seen.
type writer struct {
	frame  schemas.Frame
	reader *schemas.EventReader // nil until ready
	reason string               // why its records are undecodable; empty: not (yet)
	why    string               // while neither: what is waited for
	asking bool
	since  time.Time // when it was first found unknown; zero: not found so
	asked  time.Time // when it was last asked for
}

const (
	whyRegistry = "registry"
	whySchema   = "schema"

	askAgain     = time.Second
	askLostAgain = 10 * time.Second
	maxWriters   = 10_000 // above it the lost ones are forgotten: ids may be garbage
)

func newResolver(registry *kafka.Registry, wait time.Duration, log *zap.Logger, changed func(*writer)) *resolver {
	return &resolver{registry: registry, wait: wait, log: log, changed: changed, writers: map[schemas.Frame]*writer{}}
}

// find never blocks on the network. Exactly one of the three results says something: a reader; a reason, if the record is
// undecodable; else the writer is waited for, and changed will be called for it.
func (s *resolver) find(f schemas.Frame) (*schemas.EventReader, string, *writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.writers[f]
	if w == nil {
		w = &writer{frame: f}
		s.forget()
		s.writers[f] = w
		if !f.Confluent {
			s.lookup(w)
		} else if s.registry == nil {
			w.reason = reasonNoRegistry
		}
	}
	switch {
	case w.reader != nil:
		return w.reader, "", nil
	case w.reason == reasonNoRegistry || w.reason == reasonBadSchema:
		return nil, w.reason, nil
	case w.reason != "":
		if f.Confluent && time.Since(w.asked) > askLostAgain {
			s.ask(w)
		}
		return nil, w.reason, nil
	}
	s.ask(w)
	return nil, "", w
}

// answered says whether the registry has been asked for a lost schema since a time, and has answered. If not, it is asked: a reroute is ordered because
// something was registered, and must not be told what was true ten seconds ago. The live path goes on meanwhile: the schema stays lost until the answer.
func (s *resolver) answered(f schemas.Frame, since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.writers[f]
	if w == nil || !f.Confluent || w.reason != reasonUnknownSchema {
		return true
	}
	if !w.asking && w.asked.Before(since) {
		s.ask(w)
	}
	return !w.asking
}

// lookup finds a schema that is compiled in. Holds mu.
func (s *resolver) lookup(w *writer) {
	if schema, ok := schemas.CompiledIn(w.frame.Fingerprint); ok {
		s.use(w, schema)
	}
}

// use makes the reader. Holds mu.
func (s *resolver) use(w *writer, schema *schemas.Schema) {
	reader, err := schemas.NewEventReader(schema)
	if err != nil {
		w.reason = reasonBadSchema
		s.log.Error("a schema is not that of an event: its records are undecodable", zap.Uint32("schema_id", w.frame.ID), zap.Error(err))
		return
	}
	w.reader, w.reason, w.why = reader, "", ""
}

// ask starts the goroutine that asks for w, if none runs. Holds mu.
func (s *resolver) ask(w *writer) {
	if w.asking || s.ctx == nil || s.ctx.Err() != nil {
		return
	}
	w.asking = true
	w.asked = time.Now()
	if w.why == "" {
		w.why = whySchema
	}
	s.wg.Go(func() { s.asker(w) })
}

// asker asks until there is an answer that ends the waiting.
func (s *resolver) asker(w *writer) {
	for {
		schema, err := s.fetch(w.frame)
		if s.settle(w, schema, err) {
			s.changed(w)
			return
		}
		select {
		case <-time.After(askAgain):
		case <-s.ctx.Done():
			s.mu.Lock()
			w.asking = false
			s.mu.Unlock()
			return
		}
	}
}

func (s *resolver) fetch(f schemas.Frame) (*schemas.Schema, error) {
	if !f.Confluent {
		return nil, kafka.ErrUnknownSchema
	}
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	text, err := s.registry.SchemaByID(ctx, f.ID)
	if err != nil {
		return nil, err
	}
	schema, err := schemas.Parse(text)
	if err != nil {
		return nil, errors.Join(errBadSchema, err)
	}
	return schema, nil
}

var errBadSchema = errors.New("the registry's schema cannot be used")

// settle takes an answer and says whether the waiting is over.
func (s *resolver) settle(w *writer, schema *schemas.Schema, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	w.asked = now
	id := zap.Uint32("schema_id", w.frame.ID)
	switch {
	case err == nil:
		s.use(w, schema)
	case errors.Is(err, errBadSchema):
		w.reason = reasonBadSchema
		s.log.Error("a schema cannot be used: its records are undecodable", id, zap.Error(err))
	case errors.Is(err, kafka.ErrUnknownSchema):
		if w.since.IsZero() {
			w.since = now
			s.log.Warn("a schema is unknown: its partition waits", id, zap.Bool("fingerprint", !w.frame.Confluent), zap.Duration("at_most", s.wait))
		}
		w.why = whySchema
		if w.reason == "" && now.Sub(w.since) < s.wait {
			return false
		}
		w.reason = reasonUnknownSchema
	default: // down, or an answer that says nothing about the id
		if w.reason == "" {
			if w.why != whyRegistry {
				s.log.Error("the schema registry does not answer: partitions that need it wait; is it up, and is registry.url right?", id, zap.Error(err))
			}
			w.why = whyRegistry
			return false
		}
	}
	w.asking = false
	return true
}

// forget drops what is lost when there is too much of it. Holds mu.
func (s *resolver) forget() {
	if len(s.writers) < maxWriters {
		return
	}
	for f, w := range s.writers {
		if w.reader == nil && !w.asking {
			delete(s.writers, f)
		}
	}
}

// whyOf says what w is waited for.
func (s *resolver) whyOf(w *writer) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return w.why
}
