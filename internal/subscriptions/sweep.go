package subscriptions

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

const (
	sweepEvery = time.Second
	// repairGrace is how long the owner leaves a repair to the writer who lost: he writes it at once, unless he died.
	repairGrace = 3 * time.Second
	// keepDeleted is how long a deleted subscription stays, so that its late tasks find out why they end.
	keepDeleted = 7 * 24 * time.Hour
)

// sweeping is what the owner of a partition has to do some day: few entries, whatever the size of the table.
type sweeping struct {
	mu      sync.Mutex
	owner   Owner
	repairs map[string]time.Time // by id: since when a repair is due
	deleted map[string]int64     // by id: when it was deleted, broker ms
}

func (w *sweeping) init() { w.repairs, w.deleted = map[string]time.Time{}, map[string]int64{} }

func (w *sweeping) due(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.repairs[id]; !ok {
		w.repairs[id] = time.Now()
	}
}

func (w *sweeping) accepted(l *Live) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.repairs, l.ID)
	if l.State == schemas.StateDeleted {
		w.deleted[l.ID] = l.UpdatedAt
	} else {
		delete(w.deleted, l.ID)
	}
}

func (w *sweeping) forget(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.repairs, id)
	delete(w.deleted, id)
}

// ripe lists what is to be done now.
func (w *sweeping) ripe(now, brokerNow time.Time) (repairs, tombstones []string, owner Owner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owner == nil {
		return nil, nil, nil
	}
	for id, since := range w.repairs {
		if now.Sub(since) >= repairGrace {
			repairs = append(repairs, id)
		}
	}
	for id, at := range w.deleted {
		if brokerNow.Sub(time.UnixMilli(at)) >= keepDeleted {
			tombstones = append(tombstones, id)
		}
	}
	return repairs, tombstones, w.owner
}

// SetOwner names who knows which partitions this process owns. Without an owner the table only reads.
func (t *Table) SetOwner(o Owner) {
	t.sweeping.mu.Lock()
	defer t.sweeping.mu.Unlock()
	t.sweeping.owner = o
}

// sweep repairs what the losers of a race left unrepaired, and writes the tombstones of what was deleted a week ago. Two processes that both think that
// they own a partition do no harm: a second repair says the same, and so does a second tombstone.
func (t *Table) sweep(ctx context.Context) {
	for ctx.Err() == nil {
		wait(ctx, sweepEvery)
		select {
		case <-t.loaded: // before, what looks due may be repaired further down the log
		default:
			continue
		}
		repairs, tombstones, owner := t.sweeping.ripe(time.Now(), t.c.BrokerNow())
		var r kafka.Records
		for _, id := range repairs {
			t.addRepair(&r, id, owner.Owns)
		}
		for _, id := range tombstones {
			t.addTombstone(&r, id, owner.Owns)
		}
		if r.Len() == 0 {
			continue
		}
		n := r.Len()
		err := fault.Before(fault.SubscriptionSweep)
		if err == nil {
			_, err = t.append.Append(ctx, &r)
			err = fault.After(fault.SubscriptionSweep, err)
		}
		if err != nil && ctx.Err() == nil {
			t.log.Warn("repairs and tombstones of subscriptions could not be written; they will be tried again", zap.Error(err))
		} else {
			t.log.Info("swept the subscriptions", zap.Int("records", n))
		}
	}
}

// addRepair adds the record that restates a subscription, if one is due and we may say what stands.
func (t *Table) addRepair(r *kafka.Records, id string, owns func(int32) bool) {
	l, s, ok := t.standing(id)
	if !ok || !s.repairDue || !t.settled(l, s) {
		return
	}
	if tp := t.place(id); owns(tp.Partition) {
		repair := repairOf(&l.Subscription)
		r.Add(tp, []byte(id), nil, schemas.AppendSubscription(nil, &repair))
	}
}

func (t *Table) addTombstone(r *kafka.Records, id string, owns func(int32) bool) {
	l, ok := t.Get(id)
	if !ok || l.State != schemas.StateDeleted {
		return
	}
	if tp := t.place(id); owns(tp.Partition) {
		r.AddTombstone(tp, []byte(id))
	}
}

// place is the partition of a subscription. To be called after Run has begun.
func (t *Table) place(id string) kafka.TP {
	t.mu.Lock()
	n := len(t.next)
	t.mu.Unlock()
	return kafka.TP{Topic: t.topic, Partition: kafka.Partition([]byte(id), n)}
}
