package subscriptions

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"hash/maphash"
	mrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/fault"
	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/schemas"
)

const (
	maxLosses = 10 // races lost against other writers before one change is given up
	// routerStaleness is how old a router's knowledge may be when it matches (design section 7).
	routerStaleness = time.Second
	// firstHeadroom is the time that the write of a cut is given at first; each write that took longer doubles it for the next.
	firstHeadroom = 250 * time.Millisecond
	mostHeadroom  = 30 * time.Second
	// settleLimit is how long a writer waits until a subscription is settled, that is for its repair.
	settleLimit = 15 * time.Second
)

// Writer is the only writer of the topic `subscriptions`, in as many processes as like: versions keep them apart (decide.go). Its Table must be running.
// Safe for concurrent use.
//
// A change goes: catch up -> check against what stands -> append version+1 -> read back what became of it. Whoever finds that another writer was faster
// repairs the log if its end asks for that, and begins again from what stands now; so no change is made on top of something that its writer had not seen.
type Writer struct {
	c      *kafka.Client
	table  *Table
	keys   *secrets.Keyring
	policy *egress.Policy
	cfg    Config
	append *kafka.Appender

	// Changes of one subscription by one process go one after the other: they would only lose against each other.
	seed maphash.Seed
	// Channels and not mutexes: one is held while Kafka answers, and who waits for it shall heed his context (and let virtual time pass).
	locks [64]chan struct{}
}

// NewWriter makes a writer.
func NewWriter(c *kafka.Client, t *Table, k *secrets.Keyring, policy *egress.Policy, cfg Config) *Writer {
	w := &Writer{c: c, table: t, keys: k, policy: policy, cfg: cfg, append: c.NewAppender(kafka.AppenderConfig{}), seed: maphash.MakeSeed()}
	for i := range w.locks {
		w.locks[i] = make(chan struct{}, 1)
	}
	return w
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// random26 is 26 base32 characters of chance: 130 bits.
func random26() string {
	b := make([]byte, 17)
	rand.Read(b)
	return idEncoding.EncodeToString(b)[:26]
}

// Create makes a subscription and returns when it is live: every event that is published after Create has returned is delivered, and none from before the
// cut that the record holds, or from before Draft.From, if that is given: then a catch-up routes what lies between. The secret is returned here and never again. The error is Refusals, ErrUnknown or one of Kafka's.
//
// Beside an error Create returns what was written, and its secret, if that stands or may stand: nobody could learn the secret later. nil: nothing stands.
func (w *Writer) Create(ctx context.Context, d Draft) (*Live, secrets.Secret, error) {
	for losses := 0; ; losses++ {
		l, plain, passed, err := w.createOnce(ctx, d)
		switch {
		case errors.Is(err, errTwin) && losses < maxLosses: // both may have given in
			wait(ctx, mrand.N(5*time.Millisecond<<min(losses, 7)))
			continue
		case errors.Is(err, errTwin):
			return nil, secrets.Secret{}, Refusals{refuse(CodeConflict, "name", "others made subscriptions of that name at the same time, %d times in a row; none was kept here", losses+1)}
		case l == nil:
			return nil, secrets.Secret{}, err
		case err != nil:
			return l, plain, err
		}
		if wait(ctx, time.Until(passed)); ctx.Err() != nil {
			return l, plain, context.Cause(ctx)
		}
		return l, plain, nil
	}
}

// errTwin: another writer made a subscription of the same name at the same moment, and this one was withdrawn.
var errTwin = errors.New("another writer has just made a subscription of that name")

// createOnce writes a new record; passed is when its cut lies behind every broker's clock. l beside an error: it stands or may stand.
func (w *Writer) createOnce(ctx context.Context, d Draft) (l *Live, plain secrets.Secret, passed time.Time, err error) {
	s, plain, err := w.draft(d, w.c.BrokerNow())
	if err != nil {
		return nil, plain, passed, err
	}
	if err := w.table.CatchUp(ctx); err != nil {
		return nil, plain, passed, err
	}
	if err := w.admit(s); err != nil {
		return nil, plain, passed, err
	}
	live := schemas.Cut{Kind: schemas.CutLive}
	order, err := w.orderBackfill(ctx, s, d.AcceptGap)
	if err != nil {
		return nil, plain, passed, err
	}
	if order != nil {
		live.Reason = order.ID
	}
	at, err := w.writeCut(ctx, s, live)
	if errors.Is(err, errLost) { // the first write was slow, and somebody changed the subscription before it got its later cut
		_, err = w.change(ctx, s.ID, func(ctx context.Context, s *schemas.Subscription) (*Live, error) {
			now, err := w.writeCut(ctx, s, live)
			if now.l != nil {
				at = now
			}
			return now.l, err
		}, func(_ *Live, s *schemas.Subscription) error {
			s.Spans = nil
			return nil
		})
	}
	if err == nil {
		w.confirm(ctx, order, at)
		err = w.withdrawTwin(ctx, at.l)
		if errors.Is(err, errTwin) {
			at.l = nil
		}
	} else if at.l == nil && errors.Is(err, ErrUnknown) { // even the first write may have come through
		at.l = &Live{Subscription: *s, keyring: w.keys}
	}
	return at.l, plain, at.passed, err
}

// draft checks a draft and makes its record, without spans.
func (w *Writer) draft(d Draft, now time.Time) (*schemas.Subscription, secrets.Secret, error) {
	c := &checks{policy: w.policy}
	s := &schemas.Subscription{
		ID: "sub_" + random26(), Version: 1,
		Company: c.company(d.Company, d.Operator), Name: c.name(d.Name), URL: c.url(d.URL), Events: c.events(d.Events), Format: c.format(d.Format),
		State: schemas.StateActive, BackfillFrom: c.from(d.From, now), CreatedAt: now.UnixMilli(),
	}
	c.headers(d.Headers)
	s.Schedule, s.TimeoutMs = c.schedule(d.Schedule), c.timeout(d.Timeout)
	s.MaxConcurrency, s.MaxRate = c.concurrency(d.MaxConcurrency), c.rate("max-rate", d.MaxRate)
	s.ReplayRate, s.Order = c.rate("replay-rate", d.ReplayRate), c.order(d.Order)
	plain := secrets.Secret{}
	if d.Secret == nil {
		plain = secrets.NewWebhookSecret()
	} else {
		var err error
		if plain, err = secrets.ParseWebhookSecret(string(d.Secret.Reveal())); err != nil {
			c.refuse(CodeSecretInvalid, "secret", "%s", err.Error())
		}
	}
	if err := c.refusals.err(); err != nil {
		return nil, secrets.Secret{}, err
	}
	if err := w.sealHeaders(s, d.Headers); err != nil {
		return nil, secrets.Secret{}, err
	}
	id := "sec_" + random26()
	sealed, err := w.keys.Seal(s.ID, secretField(id), plain.Reveal())
	if err != nil {
		return nil, secrets.Secret{}, err
	}
	s.Secrets = []schemas.Secret{{ID: id, Kind: "v1", Value: sealed, Fingerprint: secrets.Fingerprint(plain), CreatedAt: now.UnixMilli()}}
	return s, plain, nil
}

// sealHeaders puts checked headers into a record. Authorization has a field of its own, so that whoever sends can treat it apart.
func (w *Writer) sealHeaders(s *schemas.Subscription, hs []HeaderValue) error {
	s.Headers, s.Auth = nil, nil
	for _, h := range hs {
		auth := strings.EqualFold(h.Name, "authorization")
		field := headerField(h.Name)
		if auth {
			field = authField
		}
		v, err := w.keys.Seal(s.ID, field, h.Value.Reveal())
		if err != nil {
			return err
		}
		if auth {
			s.Auth = &v
		} else {
			s.Headers = append(s.Headers, schemas.Header{Name: h.Name, Value: v})
		}
	}
	return nil
}

// admit checks a new record against what stands.
func (w *Writer) admit(s *schemas.Subscription) error {
	var rs Refusals
	others := w.table.Company(s.Company)
	if twin := sameName(others, s.Name, s.ID); twin != nil {
		rs = append(rs, refuse(CodeNameTaken, "name", "the company has a subscription of that name already (%s)", twin.ID))
	}
	if len(others) >= w.cfg.MaxPerCompany {
		rs = append(rs, refuse(CodeTooMany, "company", "the company has %d subscriptions, and at most %d are allowed", len(others), w.cfg.MaxPerCompany))
	}
	return rs.err()
}

func sameName(list []*Live, name, but string) *Live {
	for _, l := range list {
		if l.Name == name && l.ID != but {
			return l
		}
	}
	return nil
}

// withdrawTwin looks once more whether the name is unique, now that the new record stands: two writers may have looked at once and seen nothing, but both
// have written before they look again, so the later one sees the other. Whoever sees the other withdraws, before its cut has passed. Which of the two is the
// older does not decide: the older by its clock may be the later in the log, and then only it sees both. errTwin: l was withdrawn; on any other error it
// stands, or may. If both withdrew, at least one of them finds the name free when it looks again, so somebody gets it.
func (w *Writer) withdrawTwin(ctx context.Context, l *Live) error {
	if err := fault.Before(fault.SubscriptionTwin); err != nil {
		return err
	}
	return fault.After(fault.SubscriptionTwin, w.withdrawIfTwin(ctx, l))
}

func (w *Writer) withdrawIfTwin(ctx context.Context, l *Live) error {
	if err := w.table.CatchUp(ctx); err != nil {
		return err
	}
	if sameName(w.table.Company(l.Company), l.Name, l.ID) == nil {
		return nil
	}
	if err := w.Delete(ctx, l.ID); err != nil {
		return err
	}
	return errTwin
}

// placed is a cut that was written.
type placed struct {
	l *Live
	// known is the broker time (ms) from which on every router matches with the cut before its eyes: the cut itself, or later if its write was late.
	known int64
	// passed is when, by our clock, that time lies behind every broker's.
	passed time.Time
}

// writeCut writes a record with a cut that every router will know before it meets an event on its far side. s is the record without the cut; a write that
// was too slow is followed by another version with a later cut. Beside an error it returns the last version that it did write, l nil if none.
//
//	now          acknowledged, at the latest     all routers have read it     cut on every broker's clock
//	 |-- headroom --|------ routerStaleness ------|------- ClockSpread --------|
func (w *Writer) writeCut(ctx context.Context, s *schemas.Subscription, cut schemas.Cut) (out placed, err error) {
	lead := routerStaleness + w.cfg.ClockSpread
	spans := s.Spans
	for headroom := firstHeadroom; ; headroom = min(2*headroom, mostHeadroom) {
		at := w.c.BrokerNow().Add(lead + headroom)
		// Cuts ascend. The one before may have been written a moment ago, by a process whose clock is ahead of ours.
		pushed := false
		if n := len(spans); n > 0 && at.UnixMilli() <= spans[n-1].At {
			at, pushed = time.UnixMilli(spans[n-1].At+1), true
		}
		cut.At = at.UnixMilli()
		s.Spans = append(slices.Clip(spans), cut)
		l, a, err := w.writeTimed(ctx, s)
		if err != nil {
			return out, err
		}
		known := at
		if sure := a.latest.Add(lead); known.Before(sure) {
			known = sure
		}
		out = placed{l, known.UnixMilli() + 1, a.here.Add(known.Add(w.cfg.ClockSpread).Sub(a.earliest))}
		if known.Equal(at) {
			out.known = cut.At
		}
		// BrokerNow is an estimate, and our own clock before the first answer; what the acknowledgement shows is certain. So the cut may prove to lie
		// too near, or much too far.
		//
		// A cut "paused" that proves too near stands all the same: if its next version came after it, a router that knew only the first would have
		// left out what was appended between the two, and the span would say that it was routed. As it is, a router that was late has routed
		// some events behind the cut; their tasks come up while the subscription is paused and end in `dead`, where they stay, because the catch-up
		// routes their events again. Twice is better than never.
		//
		// Nor is a cut moved that ends a span which is caught up (it names the order in Reason): the catch-up goes on to where all routers knew it.
		stands := at.Sub(a.latest) >= lead || cut.Kind == schemas.CutPaused || cut.Reason != ""
		if stands && (pushed || at.Sub(a.earliest) <= lead+headroom+routerStaleness) {
			return out, nil
		}
		next := l.Subscription
		next.Version++
		s = &next
	}
}

// acked is what an acknowledgement shows of the broker's clock: when it came here, the time there lay between earliest and latest.
type acked struct{ here, earliest, latest time.Time }

// errLost: another writer's record came first.
var errLost = errors.New("another writer was faster")

// write appends one record and reads back what became of it: the Live that it is now, or errLost.
func (w *Writer) write(ctx context.Context, s *schemas.Subscription) (*Live, error) {
	l, _, err := w.writeTimed(ctx, s)
	return l, err
}

// writeTimed is write, and says what the acknowledgement showed of the broker's clock.
func (w *Writer) writeTimed(ctx context.Context, s *schemas.Subscription) (*Live, acked, error) {
	begun := time.Now()
	s.Repair, s.UpdatedBy = false, random26()
	s.UpdatedAt = w.c.BrokerNow().UnixMilli()
	answer, stop := w.table.watch(s.UpdatedBy)
	defer stop()
	tp := w.table.place(s.ID)
	var r kafka.Records
	r.Add(tp, []byte(s.ID), nil, schemas.AppendSubscription(nil, s))
	acks, err := []kafka.Ack(nil), fault.Before(fault.SubscriptionWrite)
	if err == nil {
		acks, err = w.append.Append(ctx, &r)
	}
	if err != nil {
		var p *kafka.PartitionError
		if errors.As(err, &p) && p.Unknown {
			return nil, acked{}, fmt.Errorf("%w (%v)", ErrUnknown, p)
		}
		return nil, acked{}, err
	}
	a := acked{here: time.Now(), earliest: time.UnixMilli(acks[0].Time)}
	if acks[0].Time < 0 { // the sandbox's broker stamps nothing; it has our clock
		a.earliest = begun
	}
	a.latest = a.earliest.Add(a.here.Sub(begun))
	if err := fault.After(fault.SubscriptionWrite, w.readBack(ctx, tp, acks[0].Base)); err != nil {
		return nil, acked{}, fmt.Errorf("%w (%v)", ErrUnknown, err)
	}
	select {
	case accepted := <-answer:
		if !accepted {
			return nil, acked{}, errLost
		}
	default: // the cleaner took it before we read it
		return nil, acked{}, ErrUnknown
	}
	// A process that was stopped for so long that the log cleaner came by may have missed the record that was first.
	if w.table.lag > 0 && time.Since(begun) > w.table.lag/2 {
		return nil, acked{}, ErrUnknown
	}
	l := &Live{Subscription: *s, AppendedAt: acks[0].Time, keyring: w.keys}
	if now, ok := w.table.Get(s.ID); ok && now.Version == s.Version {
		l = now
	}
	return l, a, nil
}

// readBack waits until the table has read the record at an offset; -1, where the broker only said that it has the record already.
func (w *Writer) readBack(ctx context.Context, tp kafka.TP, offset int64) error {
	if offset < 0 {
		return w.table.CatchUp(ctx)
	}
	return w.table.readTo(ctx, tp.Partition, offset+1)
}

// change applies edit to what stands and writes it, as often as it takes until no other writer comes in between. edit gets a copy whose slices it must
// replace, not write into; it may return errNothing.
func (w *Writer) change(ctx context.Context, id string, put func(context.Context, *schemas.Subscription) (*Live, error), edit func(*Live, *schemas.Subscription) error) (*Live, error) {
	lock := w.locks[maphash.String(w.seed, id)%uint64(len(w.locks))]
	select {
	case lock <- struct{}{}:
		defer func() { <-lock }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for losses := 0; ; losses++ {
		l, err := w.standing(ctx, id)
		if err != nil {
			return nil, err
		}
		next := l.Subscription
		next.Version++
		switch err := edit(l, &next); {
		case errors.Is(err, errNothing):
			return l, nil
		case err != nil:
			return nil, err
		}
		l, err = put(ctx, &next)
		if !errors.Is(err, errLost) {
			return l, err
		}
		if err := w.repair(ctx, id); err != nil {
			return nil, err
		}
		if losses == maxLosses {
			return nil, Refusals{refuse(CodeConflict, "", "others changed %s at the same time, %d times in a row; nothing of this change was made", id, losses)}
		}
		wait(ctx, mrand.N(5*time.Millisecond<<min(losses, 7)))
	}
}

// errNothing: there is nothing to change.
var errNothing = errors.New("nothing to change")

// standing returns what stands now, once it is certain that it does.
func (w *Writer) standing(ctx context.Context, id string) (*Live, error) {
	deadline := time.Now().Add(settleLimit)
	for {
		if err := w.table.CatchUp(ctx); err != nil {
			return nil, err
		}
		l, s, ok := w.table.standing(id)
		switch {
		case !ok:
			return nil, Refusals{refuse(CodeNotFound, "id", "there is no subscription %s", clip(id))}
		case l.State == schemas.StateDeleted:
			return nil, Refusals{refuse(CodeDeleted, "id", "the subscription %s is deleted", id)}
		case w.table.settled(l, s):
			return l, nil
		case time.Now().After(deadline):
			return nil, Refusals{refuse(CodeUnsettled, "id", "the log holds only a part of what was written about %s lately; its deliverer repairs that. Try again soon"+
				" (is compaction_lag shorter than on the topic, or no deliverer running?)", id)}
		}
		wait(ctx, askEvery)
	}
}

// repair restates what stands if the last record of the subscription is a rejected one: by then ours.
func (w *Writer) repair(ctx context.Context, id string) error {
	var r kafka.Records
	w.table.addRepair(&r, id, func(int32) bool { return true })
	if r.Len() == 0 {
		return nil
	}
	if err := fault.Before(fault.SubscriptionRepair); err != nil {
		return err
	}
	_, err := w.append.Append(ctx, &r)
	return fault.After(fault.SubscriptionRepair, err)
}

// Update changes a subscription and returns what stands then. Whoever changes it at the same time loses nothing: both changes are made, one after the other.
// The next try of every task, waiting ones too, goes by the new settings.
func (w *Writer) Update(ctx context.Context, id string, ch Change) (*Live, error) {
	renamed := false
	l, err := w.change(ctx, id, w.write, func(l *Live, s *schemas.Subscription) error {
		if ch.IfVersion != 0 && ch.IfVersion != l.Version {
			return Refusals{refuse(CodeConflict, "if-version", "version %d stands, not %d", l.Version, ch.IfVersion)}
		}
		renamed = false
		if err := w.edit(l, s, ch); err != nil {
			return err
		}
		if s.Order == schemas.OrderEntity && l.Order != schemas.OrderEntity {
			if err := w.catchUpsOver(ctx, s); err != nil {
				return err
			}
		}
		if s.Name != l.Name {
			if twin := sameName(w.table.Company(s.Company), s.Name, s.ID); twin != nil {
				return Refusals{refuse(CodeNameTaken, "name", "the company has a subscription of that name already (%s)", twin.ID)}
			}
			renamed = true
		}
		return nil
	})
	if err != nil || !renamed {
		return l, err
	}
	return w.keepNameUnique(ctx, l)
}

// keepNameUnique takes a rename back if another writer gave the same name away at the same moment. See withdrawTwin; here whoever sees the other gives in.
func (w *Writer) keepNameUnique(ctx context.Context, l *Live) (*Live, error) {
	if err := w.table.CatchUp(ctx); err != nil {
		return nil, err
	}
	twin := sameName(w.table.Company(l.Company), l.Name, l.ID)
	if twin == nil {
		return l, nil
	}
	_, err := w.change(ctx, l.ID, w.write, func(now *Live, s *schemas.Subscription) error {
		if now.Name != l.Name {
			return errNothing // somebody else renamed it meanwhile
		}
		s.Name = strings.ToValidUTF8(l.Name[:min(len(l.Name), 60)], "") + " " + l.ID
		return nil
	})
	if err != nil {
		return nil, err
	}
	return nil, Refusals{refuse(CodeNameTaken, "name", "another writer has just used that name (%s); this subscription now has its id in its name", twin.ID)}
}

// edit checks a change and applies it to the record.
func (w *Writer) edit(l *Live, s *schemas.Subscription, ch Change) error {
	c := &checks{policy: w.policy}
	if ch.Name != nil {
		s.Name = c.name(*ch.Name)
	}
	if ch.URL != nil {
		s.URL = c.url(*ch.URL)
	}
	if ch.Events != nil {
		s.Events = c.events(ch.Events)
	}
	if ch.Format != nil {
		s.Format = c.format(*ch.Format)
	}
	if ch.Schedule != nil {
		s.Schedule = c.schedule(*ch.Schedule)
	}
	if ch.Timeout != nil {
		s.TimeoutMs = c.timeout(*ch.Timeout)
	}
	if ch.MaxConcurrency != nil {
		s.MaxConcurrency = c.concurrency(*ch.MaxConcurrency)
	}
	if ch.MaxRate != nil {
		s.MaxRate = c.rate("max-rate", *ch.MaxRate)
	}
	if ch.ReplayRate != nil {
		s.ReplayRate = c.rate("replay-rate", *ch.ReplayRate)
	}
	if ch.Order != nil {
		s.Order = c.order(*ch.Order)
	}
	headers, changed, err := newHeaders(l, ch)
	if err != nil {
		return err
	}
	if changed {
		c.headers(headers)
	}
	if err := c.refusals.err(); err != nil {
		return err
	}
	if changed {
		return w.sealHeaders(s, headers)
	}
	return nil
}

// newHeaders is the list of headers after a change.
func newHeaders(l *Live, ch Change) (hs []HeaderValue, changed bool, err error) {
	if ch.Headers == nil && len(ch.SetHeaders) == 0 && len(ch.RemoveHeaders) == 0 {
		return nil, false, nil
	}
	if ch.Headers != nil {
		hs = slices.Clone(*ch.Headers)
	} else {
		if hs, err = l.HeaderValues(); err != nil {
			return nil, false, err
		}
		hs = slices.Clone(hs)
		auth, ok, err := l.Authorization()
		if err != nil {
			return nil, false, err
		}
		if ok {
			hs = append(hs, HeaderValue{"Authorization", auth})
		}
	}
	drop := slices.Clone(ch.RemoveHeaders)
	for _, h := range ch.SetHeaders {
		drop = append(drop, h.Name)
	}
	hs = slices.DeleteFunc(hs, func(h HeaderValue) bool {
		return slices.ContainsFunc(drop, func(name string) bool { return strings.EqualFold(name, h.Name) })
	})
	return append(hs, ch.SetHeaders...), true, nil
}

// Delete ends a subscription: its sends stop within two seconds, its waiting tasks end as dropped. The record stays a week, without its secrets.
func (w *Writer) Delete(ctx context.Context, id string) error {
	_, err := w.change(ctx, id, w.write, func(_ *Live, s *schemas.Subscription) error {
		s.State, s.StateReason = schemas.StateDeleted, ""
		s.Secrets, s.Headers, s.Auth = nil, nil, nil
		return nil
	})
	return err
}
