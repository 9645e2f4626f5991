package subscriptions_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Whatever goes wrong after the first write, who asked for a subscription learns its id and its secret: nobody could ever learn the secret again.
func TestCreateGivesTheSecretOfWhatStandsBesideAnError(t *testing.T) {
	for name, slow := range map[string][]time.Duration{ // how long each write takes, or that it is refused; the command is interrupted after 5 s
		"the first write is not answered in time": {time.Minute},
		"the second write of a late cut":          {time.Second, time.Minute},
		"the wait for a later cut":                {4 * time.Second, 0},
		"the second write is refused":             {time.Second, refused},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				p := w.process()
				cluster := w.broker.Cluster()
				cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
					cluster.KeepControl()
					if len(slow) > 0 {
						wait := slow[0]
						slow = slow[1:]
						if wait == refused {
							return refusal(req.(*kmsg.ProduceRequest)), nil, true
						}
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

const refused = time.Duration(-1)

// refusal is a broker's answer that it took nothing, and never will.
func refusal(req *kmsg.ProduceRequest) *kmsg.ProduceResponse {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, kerr.PolicyViolation.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// A refusal leaves nothing behind, not even where the record was written and withdrawn: then no subscription may be handed out.
func TestCreateGivesNothingBesideARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ps := []*process{w.process(), w.process(), w.process()}
		var made atomic.Int32
		var wg sync.WaitGroup
		for _, p := range ps {
			wg.Go(func() {
				l, _, err := p.Create(t.Context(), draft("c0ffee01", "crm", "*"))
				if (l == nil) != (err != nil) {
					t.Errorf("a subscription %v beside %v", l != nil, err)
				}
				if err == nil {
					made.Add(1)
				}
			})
		}
		wg.Wait()
		if made.Load() != 1 {
			t.Errorf("%d of one name were made", made.Load())
		}
	})
}

// Who drafted first and wrote last is the only one that sees both: it must be the one that gives in.
func TestTheOlderGivesInWhereOnlyItSeesTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		slow, fast := w.process(), w.process()
		cluster := w.broker.Cluster()
		writing := make(chan struct{})
		var slowed atomic.Bool
		cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			cluster.KeepControl()
			if !slowed.Swap(true) {
				close(writing)
				cluster.SleepControl(func() { <-time.After(time.Second) })
			}
			return nil, nil, false
		})
		answer := make(chan error, 1)
		go func() {
			_, _, err := slow.Create(t.Context(), draft("c0ffee01", "crm", "*"))
			answer <- err
		}()
		<-writing
		l, _, err := fast.Create(t.Context(), draft("c0ffee01", "crm", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if err := <-answer; err == nil || !strings.Contains(err.Error(), "has a subscription of that name already") {
			t.Errorf("two of one name stand, or %v", err)
		}
		if now, ok := fast.Get(l.ID); !ok || now.Name != "crm" {
			t.Errorf("the one that was given away is gone: %v", now)
		}
	})
}
