package subscriptions_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Whatever goes wrong after the first write, who asked for a subscription learns its id and its secret: nobody could ever learn the secret again.
func TestCreateGivesTheSecretOfWhatStandsBesideAnError(t *testing.T) {
	for name, slow := range map[string][]time.Duration{ // how long each write takes, until the command is interrupted after 5 s
		"the first write is not answered in time": {time.Minute},
		"the second write of a late cut":          {time.Second, time.Minute},
		"the wait for a later cut":                {4 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				p := w.process()
				cluster := w.broker.Cluster()
				cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
					cluster.KeepControl()
					if len(slow) > 0 {
						wait := slow[0]
						slow = slow[1:]
						cluster.SleepControl(func() { <-time.After(wait) })
					}
					return nil, nil, false
				})
				ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
				defer stop()
				l, secret, err := p.Create(ctx, draft("c0ffee01", "crm", "*"))
				if err == nil || l == nil {
					t.Fatalf("%v, %v", l, err)
				}
				<-time.After(2 * time.Minute)
				if err := p.CatchUp(t.Context()); err != nil {
					t.Fatal(err)
				}
				stands, ok := p.Get(l.ID)
				if !ok {
					t.Fatalf("%s is named and does not stand", l.ID)
				}
				if list, err := stands.SigningSecrets(); err != nil || len(list) != 1 || !list[0].Equal(secret) {
					t.Errorf("the secret is not that of what stands: %v, %v", list, err)
				}
			})
		})
	}
}

// A refusal left nothing behind, so it must not hand out a subscription.
func TestCreateGivesNothingBesideARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newWorld(t).process()
		var errs int
		for range 2 {
			l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
			if (l == nil) != (err != nil) {
				t.Errorf("%v beside %v", l, err)
			}
			if err != nil {
				errs++
			}
		}
		if errs != 1 {
			t.Errorf("%d refusals of two creates with one name", errs)
		}
	})
}
