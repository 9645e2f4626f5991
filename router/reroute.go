package router

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// A reroute sends undecodable records through again, after the reason is gone: a schema was registered, a release knows a newer one. It is a
// record in `replays`; whoever owns a partition of `undecodable` works off its part of it, up to the end that the record names. A record goes
// through with the coordinates and the append time of the event it was, so it is matched by the spans of that time (past.go), and its tasks have the
// ids that they would have had: sending a record through twice adds nothing that the marks do not drop.
//
// Death between two steps: tasks appended, progress not written yet: the next owner sends those records through again, under the same ids.
//
// It has nothing to do with the live path but the table: a reroute that waits for the registry delays no event.

// rerouter works off the reroutes of the partitions of `undecodable` that this process owns. run owns the pass.
type rerouter struct {
	r    *Router
	pass *pass
	out  kafka.Records // progress under construction
	kick chan struct{} // something changed: reroutes, progress or ownership
}

func newRerouter(r *Router) *rerouter {
	w := &rerouter{r: r, pass: newPastPass(&r.shared), kick: make(chan struct{}, 1)}
	w.pass.past = true
	return w
}

// wake makes run look for work.
func (w *rerouter) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// run works until ctx ends.
func (w *rerouter) run(ctx context.Context) {
	select {
	case <-w.r.orders.loaded:
	case <-ctx.Done():
		return
	}
	for {
		reroute, parts := w.next()
		if reroute == nil {
			select {
			case <-w.kick:
			case <-ctx.Done():
				return
			}
			continue
		}
		if err := w.work(ctx, reroute, parts); err != nil && ctx.Err() == nil {
			w.r.log.Warn("a reroute was interrupted: it goes on where it stands", zap.String("replay", reroute.ID), zap.Error(err))
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// next is the oldest reroute with work for this process, and that work: how far each partition has come.
func (w *rerouter) next() (*schemas.Replay, map[int32]*progress) {
	reroutes := w.r.orders.list(schemas.ReplayReroute)
	slices.SortFunc(reroutes, func(a, b *schemas.Replay) int {
		return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	for _, o := range reroutes {
		if o.State != schemas.ReplayRunning {
			continue
		}
		parts := map[int32]*progress{}
		for _, end := range o.Ends {
			if end.Topic != w.r.topics.Undecodable || !w.r.owned.ownsUndecodable(end.Partition) {
				continue
			}
			if p := w.r.orders.at(o.ID, kafka.TP{Topic: end.Topic, Partition: end.Partition}); !p.Done {
				parts[end.Partition] = &p
			}
		}
		if len(parts) > 0 {
			return o, parts
		}
	}
	return nil, nil
}

// running says whether a reroute still stands.
func (w *rerouter) running(id string) bool { return w.r.orders.running(id) }

var errOver = errors.New("the reroute was cancelled, or its partitions are not ours any more")

// work sends the records of a reroute's partitions through again, and notes after each fetch how far it has come.
func (w *rerouter) work(ctx context.Context, o *schemas.Replay, parts map[int32]*progress) error {
	topic := w.r.topics.Undecodable
	first, err := w.r.offsets(ctx, topic, kafka.Earliest)
	if err != nil {
		return err
	}
	_, only, _ := ParseUndecodableID(o.TaskID)
	pos, ends := map[kafka.TP]int64{}, map[int32]int64{}
	for _, end := range o.Ends {
		p := parts[end.Partition]
		if p == nil {
			continue
		}
		p.Next = max(p.Next, first[end.Partition], only)
		if p.Next >= end.Offset {
			if err := w.save(ctx, p, end.Offset); err != nil {
				return err
			}
			continue
		}
		pos[kafka.TP{Topic: topic, Partition: end.Partition}], ends[end.Partition] = p.Next, end.Offset
	}
	if len(pos) == 0 {
		return nil
	}
	var failed error
	err = scanBatches(ctx, w.r.kafka, pos, func(tp kafka.TP) int64 { return ends[tp.Partition] }, func(b *kafka.Batch) bool {
		failed = w.batch(ctx, o, parts[b.Partition], b, ends[b.Partition])
		return failed == nil
	})
	if errors.Is(failed, errOver) {
		failed = nil
	}
	return errors.Join(failed, err)
}

// batch sends the records of one batch through. Nothing of it counts before its tasks are durable.
func (w *rerouter) batch(ctx context.Context, o *schemas.Replay, p *progress, b *kafka.Batch, end int64) error {
	if !w.running(o.ID) || !w.r.owned.ownsUndecodable(b.Partition) {
		return errOver
	}
	began, taken := time.Now(), 0
	for i := range b.Records {
		rec := &b.Records[i]
		if rec.Offset >= end {
			break
		}
		p.Scanned++
		u, ok := parseUndecodable(b.Partition, rec)
		if !ok || !wanted(o, &u) {
			continue
		}
		taken++
		outcome, err := w.send(ctx, o, &u, began)
		if err != nil {
			w.pass.reset()
			return err
		}
		if outcome == "routed" {
			p.Matched++
		}
		w.r.metrics.rerouted.WithLabelValues(outcome).Inc()
		if w.pass.full() { // one event may be many tasks: what a fetch brought could be a thousand times as much
			if tasksErr, badErr := w.pass.flush(ctx); tasksErr != nil || badErr != nil {
				return errors.Join(tasksErr, badErr)
			}
		}
	}
	if err := fault.Before(fault.RerouteTasks); err != nil {
		w.pass.reset()
		return err
	}
	tasksErr, badErr := w.pass.flush(ctx)
	if err := fault.After(fault.RerouteTasks, errors.Join(tasksErr, badErr)); err != nil {
		return err
	}
	p.Next = b.Next
	if err := w.save(ctx, p, end); err != nil {
		return err
	}
	if o.Rate > 0 {
		select {
		case <-time.After(time.Duration(float64(taken)/o.Rate*float64(time.Second)) - time.Since(began)):
		case <-ctx.Done():
		}
	}
	return nil
}

// wanted says whether a reroute means that record.
func wanted(o *schemas.Replay, u *Undecodable) bool {
	return (o.TaskID == "" || o.TaskID == u.ID()) &&
		(o.Reason == "" || string(o.Reason) == u.Reason) &&
		(o.From == 0 || u.Time >= o.From) && (o.To == 0 || u.Time < o.To)
}

// send takes one record through. A registry that is down is waited for; a record that is still undecodable stays where it is, with
// the reason it has, but no schema is taken for unknown unless the registry has said so since began.
func (w *rerouter) send(ctx context.Context, o *schemas.Replay, u *Undecodable, began time.Time) (string, error) {
	if w.r.entities[u.Source.Topic] == "" {
		return "gone", nil // its topic is none of this deployment's
	}
	if u.LeftOut > 0 {
		return "still", nil
	}
	for {
		// Each time, because the registry, the flush before and large bodies may each have taken longer than the table stays fresh.
		if err := w.pass.fresh(ctx); err != nil {
			return "", err
		}
		out := w.pass.event(&u.Source, u.Value, time.Now().UnixMilli())
		switch {
		case out.wait == nil && out.reason == "":
			return "routed", nil
		case out.wait == nil && !w.unsure(u, out.reason, began):
			return "still", nil
		case !w.running(o.ID) || !w.r.owned.ownsUndecodable(u.Partition):
			return "", errOver
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// unsure: the reason may be an old answer of the registry. It is being asked.
func (w *rerouter) unsure(u *Undecodable, reason string, began time.Time) bool {
	if reason != reasonUnknownSchema {
		return false
	}
	frame, _, err := schemas.Unframe(u.Value)
	return err == nil && !w.r.schemas.answered(frame, began)
}

// save writes how far a partition has come.
func (w *rerouter) save(ctx context.Context, p *progress, end int64) error {
	p.At, p.Done = time.Now().UnixMilli(), p.Next >= end
	key := progressKey(p.Replay, p.Partition)
	w.out.Reset()
	w.out.Add(kafka.TP{Topic: w.r.topics.Progress, Partition: kafka.Partition(key, w.r.counts[w.r.topics.Progress])}, key, nil, schemas.AppendProgress(nil, p))
	if err := fault.Before(fault.RerouteProgress); err != nil {
		return err
	}
	_, err := w.r.pastOut.Append(ctx, &w.out)
	if err = fault.After(fault.RerouteProgress, err); err != nil {
		return err
	}
	w.r.orders.saved(*p)
	return nil
}

func progressKey(replay string, partition int32) []byte {
	return []byte(replay + "/" + strconv.Itoa(int(partition)))
}

// RerouteFilter says which undecodable records are to be sent through again. The zero value means all that are there now.
type RerouteFilter struct {
	ID       string // of one record, as UndecodableID gives it
	Reason   string
	From, To int64 // when they were put there, ms; 0: no bound
	Rate     float64
}

// StartReroute writes the record of a reroute, and returns it. It has effect while a router runs, or when one is started.
func StartReroute(ctx context.Context, c *kafka.Client, f RerouteFilter) (*schemas.Replay, error) {
	topic := c.Topics().Undecodable
	ends, err := c.Offsets(ctx, topic, kafka.Latest)
	if err != nil {
		return nil, err
	}
	o := &schemas.Replay{ID: newReplayID(), Kind: schemas.ReplayReroute, State: schemas.ReplayRunning, CreatedAt: time.Now().UnixMilli(),
		TaskID: f.ID, Reason: schemas.Reason(f.Reason), From: f.From, To: f.To, Rate: f.Rate}
	if f.ID != "" {
		p, offset, err := ParseUndecodableID(f.ID)
		if err != nil {
			return nil, err
		}
		if end, ok := ends[p]; !ok || offset >= end {
			return nil, &IDError{Text: f.ID, Missing: true}
		}
		ends = map[int32]int64{p: offset + 1}
	}
	for _, p := range slices.Sorted(maps.Keys(ends)) {
		if ends[p] > 0 {
			o.Ends = append(o.Ends, schemas.PartitionOffset{Topic: topic, Partition: p, Offset: ends[p]})
		}
	}
	return o, writeReplay(ctx, c, o)
}

// CancelReroute takes a reroute back; routers stop within a batch.
func CancelReroute(ctx context.Context, c *kafka.Client, o *schemas.Replay) error {
	cancelled := *o
	cancelled.State = schemas.ReplayCancelled
	return writeReplay(ctx, c, &cancelled)
}

// FindReroute reads a reroute back; nil if there is none of that id.
func FindReroute(ctx context.Context, c *kafka.Client, id string) (*schemas.Replay, error) {
	var found *schemas.Replay
	err := scanTopic(ctx, c, c.Topics().Replays, func(_ kafka.TP, rec *kafka.Record) bool {
		var o schemas.Replay
		if string(rec.Key) == id && rec.Value != nil && schemas.DecodeReplay(rec.Value, &o) == nil && o.Kind == schemas.ReplayReroute {
			found = &o
		}
		return true
	})
	return found, err
}

// RerouteState is how far a reroute has come, over all its partitions.
type RerouteState struct {
	Scanned, Matched   int64
	Partitions, Remain int
}

// Done says that nothing is left.
func (s RerouteState) Done() bool { return s.Remain == 0 }

// RerouteProgress reads how far a reroute has come.
func RerouteProgress(ctx context.Context, c *kafka.Client, o *schemas.Replay) (RerouteState, error) {
	last := map[int32]progress{}
	err := scanTopic(ctx, c, c.Topics().Progress, func(_ kafka.TP, rec *kafka.Record) bool {
		var p progress
		if rec.Value != nil && strings.HasPrefix(string(rec.Key), o.ID) && schemas.DecodeProgress(rec.Value, &p) == nil && p.Replay == o.ID {
			last[p.Partition] = p
		}
		return true
	})
	s := RerouteState{Partitions: len(o.Ends)}
	for _, end := range o.Ends {
		p := last[end.Partition]
		s.Scanned += p.Scanned
		s.Matched += p.Matched
		if !p.Done {
			s.Remain++
		}
	}
	return s, err
}

func writeReplay(ctx context.Context, c *kafka.Client, o *schemas.Replay) error {
	topic := c.Topics().Replays
	n, err := c.PartitionCount(ctx, topic)
	if err != nil {
		return err
	}
	var rs kafka.Records
	rs.Add(kafka.TP{Topic: topic, Partition: kafka.Partition([]byte(o.ID), n)}, []byte(o.ID), nil, schemas.AppendReplay(nil, o))
	if err := fault.Before(fault.RerouteOrder); err != nil {
		return err
	}
	_, err = c.NewAppender(kafka.AppenderConfig{}).Append(ctx, &rs)
	return fault.After(fault.RerouteOrder, err)
}

// newReplayID makes "rpl_" and 26 characters: 130 bits, so that ids never meet by chance.
func newReplayID() string {
	var b [17]byte
	rand.Read(b[:])
	return "rpl_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))[:26]
}
