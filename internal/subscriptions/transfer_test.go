package subscriptions_test

import (
	"encoding/base64"
	"maps"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// keysOf is a keyring with keys of the given ids, the first of which encrypts.
func keysOf(t *testing.T, ids ...string) *secrets.Keyring {
	t.Helper()
	var text []string
	for _, id := range ids {
		text = append(text, id+":"+base64.StdEncoding.EncodeToString([]byte(strings.Repeat(id[1:2], 32))))
	}
	k, err := secrets.NewKeyring(strings.Join(text, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A key is changed as docs/operations.md says: the new one to every process, then first, then all resealed, then the old one taken away. The secret, a header
// and Authorization stay what they were, for a process that has nothing but the new key.
func TestResealedSecretsOpenWithoutTheOldKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.keys = keysOf(t, "k1")
		d := draft("c0ffee01", "crm", "*")
		d.Headers = []subscriptions.HeaderValue{{Name: "X-Token", Value: secrets.New([]byte("t1"))}, {Name: "Authorization", Value: secrets.New([]byte("Bearer b1"))}}
		old := w.process()
		l, secret, err := old.Create(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		w.keys = keysOf(t, "k2", "k1")
		both := w.process()
		for i, want := range []bool{true, false} { // a second time there is nothing to do
			if changed, err := both.Reseal(t.Context(), l.ID); err != nil || changed != want {
				t.Fatalf("reseal %d: changed %v, %v", i, changed, err)
			}
		}
		if err := both.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if use := subscriptions.KeysInUse(both.Table); !maps.Equal(use, map[string]int{"k2": 1}) {
			t.Errorf("keys in use: %v", use)
		}
		w.keys = keysOf(t, "k2")
		stands, _ := w.process().Get(l.ID)
		list, err := stands.SigningSecrets()
		if err != nil || len(list) != 1 || !list[0].Equal(secret) {
			t.Errorf("secrets %v, %v", list, err)
		}
		if h, err := stands.HeaderValues(); err != nil || len(h) != 1 || string(h[0].Value.Reveal()) != "t1" {
			t.Errorf("headers %v, %v", h, err)
		}
		if a, ok, err := stands.Authorization(); err != nil || !ok || string(a.Reveal()) != "Bearer b1" {
			t.Errorf("authorization %v %v, %v", a, ok, err)
		}
	})
}

// A subscription moves to another topic set whole: who matches there, what signs, and since when it is live. A second import adds nothing, a deleted one is
// not taken over, and keys that do not open it are refused.
func TestAnImportedSubscriptionIsTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		from := w.process()
		l, secret, err := from.Create(t.Context(), draft("c0ffee01", "crm", "booking.*"))
		if err != nil {
			t.Fatal(err)
		}
		l.Spans = append(l.Spans, schemas.Cut{At: l.Spans[0].At + 1, Kind: schemas.CutPaused}, schemas.Cut{At: l.Spans[0].At + 2, Kind: schemas.CutLive, Reason: "rpl_of_the_other_set"})
		record := schemas.AppendSubscription(nil, &l.Subscription)
		there := newWorld(t)
		p := there.process()
		for i, want := range []bool{true, false} {
			var s schemas.Subscription
			if err := schemas.DecodeSubscription(record, &s); err != nil {
				t.Fatal(err)
			}
			if added, err := p.Import(t.Context(), s); err != nil || added != want {
				t.Fatalf("import %d: added %v, %v", i, added, err)
			}
		}
		stands, ok := p.Get(l.ID)
		if !ok || stands.Version != 1 {
			t.Fatalf("%v, %v", stands, ok)
		}
		if got := p.Match("c0ffee01", "booking.creation", l.Spans[0].At, nil); len(got) != 1 || got[0].ID != l.ID {
			t.Errorf("matched %v", got)
		}
		if ids := stands.ResumedRedrives(); len(ids) > 0 || stands.Spans[2].Reason != "" || len(stands.Spans) != 3 {
			t.Errorf("it waits for orders of the other set: %v, %v", ids, stands.Spans)
		}
		if list, err := stands.SigningSecrets(); err != nil || len(list) != 1 || !list[0].Equal(secret) {
			t.Errorf("secrets %v, %v", list, err)
		}
		gone := l.Subscription
		gone.ID, gone.State = "sub_gone", schemas.StateDeleted
		if added, err := p.Import(t.Context(), gone); err != nil || added {
			t.Errorf("a deleted one: added %v, %v", added, err)
		}
		strange := newWorld(t)
		strange.keys = keysOf(t, "k9")
		if added, err := strange.process().Import(t.Context(), l.Subscription); err == nil || added {
			t.Errorf("with other keys: added %v, %v", added, err)
		}
	})
}
