package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/schemas"
)

const (
	orderLive     = 500.0 // events a second of healthy entities, of both subscriptions together
	orderFailing  = 10.0  // of failing ones
	orderVersions = 50    // events of an entity
)

// Ordered is the p99 of healthy entities of a subscription with order: entity in which others fail, and of one beside it in which none does.
type Ordered struct {
	Healthy, Beside Latency
	Ratio           float64
	Refused         int // requests of failing entities
}

// ordering publishes to two such subscriptions at once. One of them also gets events of a few entities that its receiver refuses, so that lines stand in which
// one event waits in a tier and the others behind it.
func (b *bench) ordering(ctx context.Context) error {
	live, err := b.d.VersionPublisher(companiesOf("ord")[:2], orderVersions)
	if err != nil {
		return err
	}
	failing, err := b.d.VersionPublisher(companiesOf("ord")[1:2], orderVersions)
	if err != nil {
		return err
	}
	failing.EntitiesFrom(1_000_000)
	err = b.d.Subscribe(ctx, []rig.Subscription{
		{Company: company("ord", 0), Path: "/ok/ord-0", Order: schemas.OrderEntity},
		{Company: company("ord", 1), Path: fmt.Sprintf("/since/%d/status/503/ord-1", failing.First()), Order: schemas.OrderEntity},
	})
	if err != nil {
		return err
	}
	if err := b.farm.Reset(); err != nil {
		return err
	}
	m, err := b.d.Marks(ctx)
	if err != nil {
		return err
	}
	length := 3*b.latency + time.Second // the first one, in which the publisher gets its connections, does not count
	n, began := int(orderLive*length.Seconds()), time.Now()
	failed := make(chan error, 1)
	go func() {
		_, err := failing.Open(ctx, int(orderFailing*length.Seconds()), orderFailing)
		failed <- err
	}()
	_, err = live.Open(ctx, n, orderLive)
	if err := errors.Join(err, <-failed); err != nil {
		return err
	}
	o := &Ordered{}
	for i, l := range []*Latency{&o.Healthy, &o.Beside} {
		name, want := fmt.Sprintf("ord-%d", i), n/2
		late := rig.Until(time.Minute, fmt.Sprintf("%d arrive at %s", want, name), func() bool {
			s, err := b.farm.Stats(name)
			return err == nil && s.Delivered >= want
		})
		s, err := b.farm.Stats(name)
		if err != nil {
			return errors.Join(late, err)
		}
		all, err := b.farm.Ledger(name)
		if err != nil {
			return err
		}
		if *l, err = b.pooled(ctx, m, all, orderLive/2, []time.Time{began}, length); err != nil {
			return err
		}
		l.Missing, l.Duplicates = want-s.Delivered+s.Duplicates, s.Duplicates
		o.Refused = len(all[name]) - s.Delivered
	}
	o.Ratio = o.Beside.P99 / o.Healthy.P99
	b.report.Ordered = o
	if o.Refused == 0 {
		return errors.New("no entity failed: nothing was shown")
	}
	return nil
}
