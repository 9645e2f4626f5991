package subscriptions

import (
	"context"
	"time"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// noteLimit is how long a pause is held up by the note of where the topics ended: who is asked may have no leader.
const noteLimit = 2 * time.Second

// orderBackfill writes the catch-up of a new subscription, nil if it wants none. Its span ends at the cut that comes next.
func (w *Writer) orderBackfill(ctx context.Context, s *schemas.Subscription, acceptGap bool) (*schemas.Replay, error) {
	if s.BackfillFrom == 0 {
		return nil, nil
	}
	var gaps []Gap
	if s.BackfillFrom != Earliest {
		var err error
		if gaps, err = w.gaps(ctx, s.BackfillFrom, nil); err != nil {
			return nil, err
		}
		if len(gaps) > 0 && !acceptGap {
			return nil, gapRefusal("from", gaps)
		}
	}
	order := schemas.CatchUp("rpl_"+random26(), s, s.BackfillFrom, w.c.BrokerNow().UnixMilli())
	order.Note = gapNote(gaps)
	return &order, w.putOrders(ctx, &order)
}

// orderResume writes the two orders of a subscription that goes live again: nil and empty if it was never paused. They lie in `replays` before the record
// with the cut does, so who reads the record and then `replays` to its end finds them.
func (w *Writer) orderResume(ctx context.Context, s *schemas.Subscription, acceptGap bool) (catchUp *schemas.Replay, redriveID string, gaps []Gap, err error) {
	from := s.PausedAt()
	if from == 0 {
		return nil, "", nil, nil
	}
	now := w.c.BrokerNow().UnixMilli()
	redrive := schemas.PausedRedrive(s, from, now)
	noted, err := w.readOrder(ctx, redrive.ID)
	if err != nil {
		return nil, "", nil, err
	}
	if noted != nil {
		redrive.Begins, redrive.CreatedAt = noted.Begins, noted.CreatedAt
	}
	if gaps, err = w.gaps(ctx, from, redrive.Begins); err != nil {
		return nil, "", nil, err
	}
	if len(gaps) > 0 && !acceptGap {
		return nil, "", gaps, gapRefusal("accept-gap", gaps)
	}
	order := schemas.CatchUp("rpl_"+random26(), s, from, now)
	order.Note = gapNote(gaps)
	return &order, redrive.ID, gaps, w.putOrders(ctx, &order, &redrive)
}

func (w *Writer) putOrders(ctx context.Context, orders ...*schemas.Replay) error {
	if err := fault.Before(fault.SubscriptionOrders); err != nil {
		return err
	}
	return fault.After(fault.SubscriptionOrders, w.appendOrders(ctx, orders))
}

func (w *Writer) appendOrders(ctx context.Context, orders []*schemas.Replay) error {
	var r kafka.Records
	for _, o := range orders {
		r.Add(w.orderPlace(o.ID), []byte(o.ID), nil, schemas.AppendReplay(nil, o))
	}
	_, err := w.append.Append(ctx, &r)
	return err
}

func (w *Writer) orderPlace(id string) kafka.TP {
	return kafka.TP{Topic: w.c.Topics().Replays, Partition: kafka.Partition([]byte(id), w.c.Config().Partitions)}
}

// confirm writes into a catch-up where it ends, now that its cut stands. An error is none of the caller's: the cut stands, and the catch-up begins without
// the confirmation, a minute later.
func (w *Writer) confirm(ctx context.Context, order *schemas.Replay, at placed) {
	if order == nil || fault.Before(fault.SubscriptionConfirm) != nil {
		return
	}
	order.To = at.known
	_ = fault.After(fault.SubscriptionConfirm, w.appendOrders(ctx, []*schemas.Replay{order}))
}

// notePause writes down where the topics of events ended before the cut of a pause passed, in the order that redrives what comes up in it. Resume needs it to
// tell a partition that retention took events of the span from, from one that has been silent for so long that retention emptied it. It is no more
// than a help: without it Resume goes by the topics' retention, and it writes the order itself.
func (w *Writer) notePause(ctx context.Context, l *Live, at placed) {
	if at.l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, noteLimit)
	defer cancel()
	cut := l.PausedAt()
	order := schemas.PausedRedrive(&l.Subscription, cut, w.c.BrokerNow().UnixMilli())
	for _, topic := range w.c.Topics().EventTopics() {
		ends, err := w.c.Offsets(ctx, topic, kafka.Latest)
		if err != nil {
			return
		}
		for p, end := range ends {
			order.Begins = append(order.Begins, schemas.PartitionOffset{Topic: topic, Partition: p, Offset: end})
		}
	}
	// What was counted after the cut would hide what retention takes between the two.
	if w.c.BrokerNow().Add(w.cfg.ClockSpread).UnixMilli() >= cut || fault.Before(fault.SubscriptionPaused) != nil {
		return
	}
	_ = fault.After(fault.SubscriptionPaused, w.appendOrders(ctx, []*schemas.Replay{&order}))
}

// catchUpsOver refuses while a catch-up of s runs. With order it goes on to where live is and live leaves out what it is not through with; so begun without order, it
// would make again whatever live has routed since.
func (w *Writer) catchUpsOver(ctx context.Context, s *schemas.Subscription) error {
	for _, c := range s.Spans {
		if c.Kind != schemas.CutLive || c.Reason == "" {
			continue
		}
		o, err := w.readOrder(ctx, c.Reason)
		if err != nil {
			return err
		}
		if o != nil && (o.State == schemas.ReplayRunning || o.State == schemas.ReplayPaused) {
			return Refusals{refuse(CodeCatchUpRuns, "order", "the catch-up %s is not over: order can be turned on when it is (hookferry replay show %s)", o.ID, o.ID)}
		}
	}
	return nil
}

// readOrder finds an order in `replays`, nil if there is none.
func (w *Writer) readOrder(ctx context.Context, id string) (*schemas.Replay, error) {
	tp := w.orderPlace(id)
	var found *schemas.Replay
	err := w.read(ctx, map[kafka.TP]int64{tp: kafka.Earliest}, func(_ kafka.TP, rec *kafka.Record) bool {
		if string(rec.Key) != id {
			return true
		}
		var o schemas.Replay
		if found = nil; rec.Value != nil && schemas.DecodeReplay(rec.Value, &o) == nil {
			found = &o
		}
		return true
	})
	return found, err
}
