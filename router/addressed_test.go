package router

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// snapshot is one of a company, to all of it (entity is the company) or to one subscription.
func snapshot(company, entity string) *schemas.RecentReservationsEvent {
	at := time.Date(2026, 3, 3, 9, 5, 7, 123e6, time.UTC)
	return &schemas.RecentReservationsEvent{
		Meta: schemas.EventMeta{EventID: "evt_" + company + "_" + entity, EventType: schemas.RecentSnapshot, EntityID: entity, EntityVersion: 1, OccurredAt: at,
			PublishedAt: at, CompanyID: company, CompanyName: "Old Town Walks", TenantID: "t87", SchemaVersion: schemas.EventSchemaVersion},
		Data: schemas.RecentReservations{CompanyID: company, Limit: 50, Bookings: []schemas.RecentBooking{{BookingID: "1000001", Reference: new("HF-524754"),
			Status: schemas.BookingStatusCancelled, LastEvent: "booking.cancellation", EntityVersion: 3, ChangedAt: at, OccurredAt: at, SoldAt: new(at),
			CancelledAt: new(at), ChannelKind: schemas.BookingChannelKindOTA, ChannelName: new("Wanderlist"), CustomerName: new("Aroha Ngata"),
			Title: new("Sunset \"Catamaran\" Sail"), Lines: 2, Passengers: 4, FirstDate: new(schemas.Date(20_515)), LastDate: new(schemas.Date(20_516)),
			TimeZone: "Europe/Lisbon", Total: &schemas.Money{Amount: schemas.Decimal{Unscaled: 238_500_000}, Currency: "EUR"}}}},
	}
}

func TestWhoAnAddressedEventIsOwedTo(t *testing.T) {
	for _, c := range []struct {
		company, state string
		want           bool
	}{
		{"c_a", schemas.StateActive, true}, {"c_a", schemas.StatePaused, true}, {"c_a", schemas.StateDisabled, true}, {"c_a", schemas.StateDeleted, false},
		{"c_b", schemas.StateActive, false}, {schemas.AnyCompany, schemas.StateActive, true}, {schemas.AnyCompany, schemas.StateDeleted, false},
	} {
		s := &schemas.Subscription{Company: c.company, State: c.state, Events: []string{"customer.removal"}}
		if got := addressed(s, "c_a"); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// An addressed snapshot reaches the one subscription that it names, which neither wants its type nor is live, and no other; one to the company reaches
// those that name its type, and not those that want "*".
func TestASnapshotReachesWhoItIsFor(t *testing.T) {
	w := newWorld(t, false, nil)
	w.subscribe("sub_wants_it", "c_a", FormatStandard, "recent_reservations.*")
	w.subscribe("sub_wants_all", "c_a", FormatStandard, "*")
	w.subscribe("sub_operator", "*", FormatClassic, schemas.RecentSnapshot)
	w.subscribe("sub_other", "c_b", FormatStandard, "*", "recent_reservations.*")
	w.put(&schemas.Subscription{ID: "sub_new", Version: 1, Company: "c_a", Name: "new", URL: "https://receiver.example/", Events: []string{"customer.removal"},
		State: schemas.StateActive})
	w.put(&schemas.Subscription{ID: "sub_gone", Version: 1, Company: "c_a", Name: "gone", URL: "https://receiver.example/", Events: []string{"*"},
		State: schemas.StateDeleted})
	stop := w.start(nil)
	var rs kafka.Records
	want := map[string]bool{}
	for entity, owed := range map[string][]string{"c_a": {"sub_wants_it", "sub_operator"}, "sub_new": {"sub_new"}, "sub_operator": {"sub_operator"},
		"sub_gone": nil, "sub_other": nil, "sub_nobody": nil} {
		ev := snapshot("c_a", entity)
		body, err := ev.AppendAvro(schemas.AppendSingleObject(nil, schemas.EventSchema(ev.EntityName()).Fingerprint()))
		if err != nil {
			t.Fatal(err)
		}
		key := []byte("c_a/" + entity)
		rs.Add(w.place(w.client.Topics().Events[ev.EntityName()], key), key, nil, body)
		for _, s := range owed {
			want[ev.Meta.EventID+" "+s] = true
		}
	}
	w.write(&rs)
	w.committed()
	stop()
	got := map[string]bool{}
	for _, task := range w.tasks(len(want), false) {
		got[fmt.Sprint(task.EventID, " ", task.Subscription)] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// The live path has routed an addressed snapshot. So no catch-up routes it again, not even that of the subscription that it names and that wants its type, which
// begins before the snapshot; and a replay sends it again to that one alone.
func TestAnAddressedSnapshotIsInNoCatchUpAndInNoReplayOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, nil)
		w.deliver()
		began := time.Now().Add(-time.Second).UnixMilli()
		bare := schemas.Subscription{Version: 1, Company: "c_a", URL: "https://receiver.example/", Events: []string{"recent_reservations.*"}, State: schemas.StateActive}
		for _, id := range []string{"sub_named", "sub_other"} {
			s := bare
			s.ID, s.Name = id, id
			w.put(&s)
		}
		w.start(nil)
		for _, entity := range []string{"sub_named", "c_a"} {
			ev := snapshot("c_a", entity)
			body, err := ev.AppendAvro(schemas.AppendSingleObject(nil, schemas.EventSchema(ev.EntityName()).Fingerprint()))
			if err != nil {
				t.Fatal(err)
			}
			var rs kafka.Records
			key := []byte("c_a/" + entity)
			rs.Add(w.place(w.client.Topics().Events[ev.EntityName()], key), key, nil, body)
			w.write(&rs)
		}
		later(time.Minute)
		cut := time.Now().UnixMilli()
		later(time.Minute)
		for _, id := range []string{"sub_named", "sub_other"} {
			s := bare
			s.ID, s.Name, s.Version, s.BackfillFrom = id, id, 2, began
			o := schemas.CatchUp("rpl_"+id, &s, began, cut)
			w.writeOrder(&o)
			s.Spans = []schemas.Cut{{At: cut, Kind: schemas.CutLive, Reason: o.ID}}
			o.To = cut
			w.writeOrder(&o)
			w.put(&s)
			w.over(o.ID)
		}
		named, all := "evt_c_a_sub_named", "evt_c_a_c_a"
		got := map[string]int{}
		for _, task := range w.tasks(1, false) {
			got["live "+task.Subscription+" "+task.EventID]++
		}
		for _, d := range []ReplayDraft{{Subscription: "sub_named"}, {Subscription: "sub_other"}, {All: true}} {
			w.over(w.startReplay(d).ID)
		}
		for _, task := range w.replayed(0, false) {
			got[string(task.Lane)+" "+task.Subscription+" "+task.EventID]++
		}
		want := map[string]int{"live sub_named " + named: 1, "catch_up sub_named " + all: 1, "catch_up sub_other " + all: 1,
			"replay sub_named " + named: 2, "replay sub_named " + all: 2, "replay sub_other " + all: 2}
		if !maps.Equal(got, want) {
			t.Errorf("got %v\nwant %v", got, want)
		}
	})
}
