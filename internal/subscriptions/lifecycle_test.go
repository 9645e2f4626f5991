package subscriptions_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

func TestCreateIsKnownToOthersBeforeItsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		here, there := w.process(), w.process()
		before := time.Now()
		l, secret, err := here.Create(t.Context(), draft("c0ffee01", "crm", "booking.*", "customer.creation"))
		if err != nil {
			t.Fatal(err)
		}
		cut := time.UnixMilli(l.Spans[0].At)
		if d := cut.Sub(before); d < 2*time.Second || d > 3*time.Second {
			t.Errorf("the cut lies %v after the command began", d)
		}
		if time.Now().Before(cut) {
			t.Error("Create returned before its cut had passed")
		}
		if got := string(secret.Reveal()[:6]); got != "whsec_" {
			t.Errorf("secret starts with %q", got)
		}
		other, ok := there.Get(l.ID)
		if !ok {
			t.Fatal("another process does not know the subscription after Create")
		}
		list, err := other.SigningSecrets()
		if err != nil || len(list) != 1 || !list[0].Equal(secret) {
			t.Errorf("SigningSecrets: %v, %d", err, len(list))
		}
		at := cut.UnixMilli()
		for _, c := range []struct {
			company, event string
			at             int64
			want           int
		}{
			{"c0ffee01", "booking.creation", at, 1}, {"c0ffee01", "customer.creation", at, 1},
			{"c0ffee01", "customer.removal", at, 0}, {"c0ffee02", "booking.creation", at, 0},
			{"c0ffee01", "booking.creation", at - 1, 0}, // before the cut
		} {
			if got := there.Match(c.company, c.event, c.at, nil); len(got) != c.want {
				t.Errorf("Match(%s, %s, cut%+d) = %d, want %d", c.company, c.event, c.at-at, len(got), c.want)
			}
		}
	})
}

func TestUpdateAndDeleteReachEveryProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		here, there := w.process(), w.process()
		d := draft("c0ffee01", "crm", "*")
		d.Headers = []subscriptions.HeaderValue{{Name: "X-Token", Value: secrets.New([]byte("tok"))}, {Name: "authorization", Value: secrets.New([]byte("Bearer b"))}}
		l, _, err := here.Create(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		url := "https://other.example.com/x"
		if _, err := there.Update(t.Context(), l.ID, subscriptions.Change{URL: &url, SetHeaders: []subscriptions.HeaderValue{{Name: "X-More", Value: secrets.New([]byte("m"))}}}); err != nil {
			t.Fatal(err)
		}
		if err := here.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		now, _ := here.Get(l.ID)
		if now.URL != url || now.Version != 2 || now.Name != "crm" {
			t.Errorf("after the update: %+v", now.Subscription)
		}
		hs, err := now.HeaderValues()
		if err != nil || len(hs) != 2 || hs[0].Name != "X-Token" || string(hs[1].Value.Reveal()) != "m" {
			t.Errorf("headers: %v %v", hs, err)
		}
		if auth, ok, err := now.Authorization(); !ok || err != nil || string(auth.Reveal()) != "Bearer b" {
			t.Errorf("authorization: %v %v", ok, err)
		}
		if err := here.Delete(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
		if err := there.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone, ok := there.Get(l.ID)
		if !ok || gone.State != schemas.StateDeleted || len(gone.Secrets) != 0 || gone.Auth != nil {
			t.Errorf("after the delete: %v %+v", ok, gone)
		}
		if got := there.Match("c0ffee01", "booking.creation", time.Now().UnixMilli(), nil); len(got) != 0 {
			t.Error("a deleted subscription matches")
		}
		if list := there.Company("c0ffee01"); len(list) != 0 {
			t.Errorf("the company still has %d", len(list))
		}
		if _, _, err := there.Create(t.Context(), draft("c0ffee01", "crm", "*")); err != nil {
			t.Errorf("the name of a deleted subscription is taken: %v", err)
		}
	})
}

// The first write of the cut takes a second: longer than it may. By then some routers may know the cut too late.
func TestACutWhoseWriteWasSlowIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p, router := w.process(), w.process()
		cluster := w.broker.Cluster()
		cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			cluster.DropControl()
			cluster.SleepControl(func() { <-time.After(time.Second) })
			return nil, nil, false
		})
		type sight struct {
			version int64
			ahead   time.Duration // of the cut, when another process learned of it
		}
		seen := make(chan sight, 8)
		router.Subscribe(func(id string) {
			l, _ := router.Get(id)
			seen <- sight{l.Version, time.Until(time.UnixMilli(l.Spans[0].At))}
		})
		l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if l.Version != 2 || len(l.Spans) != 1 {
			t.Fatalf("version %d stands, with %d cuts", l.Version, len(l.Spans))
		}
		first, second := <-seen, <-seen
		if first.version != 1 || first.ahead > 2*time.Second || second.version != 2 || second.ahead < 2*time.Second {
			t.Errorf("the cut was known %v (version %d) and %v (version %d) before it passed", first.ahead, first.version, second.ahead, second.version)
		}
		if time.Now().Before(time.UnixMilli(l.Spans[0].At)) {
			t.Error("Create returned before its cut had passed")
		}
	})
}

// The write of a pause takes so long that its cut lies in the past when it is known. Moved later, it would leave a stretch that the record calls live and
// that a router with the first version has passed over.
func TestASlowPauseKeepsItsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p, router := w.process(), w.process()
		l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		cluster := w.broker.Cluster()
		cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			cluster.DropControl()
			cluster.SleepControl(func() { <-time.After(3 * time.Second) })
			return nil, nil, false
		})
		var cuts []int64 // as another process learned of them
		router.Subscribe(func(id string) {
			now, _ := router.Get(id)
			cuts = append(cuts, now.Spans[len(now.Spans)-1].At)
		})
		if err := p.Disable(t.Context(), l.ID, "gone"); err != nil {
			t.Fatal(err)
		}
		if err := router.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		router.end()
		if len(cuts) != 1 {
			t.Errorf("the cut was written %d times: %v", len(cuts), cuts)
		}
	})
}
