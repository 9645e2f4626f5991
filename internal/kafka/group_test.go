package kafka_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
)

func TestACommitComesBackWithItsMetadata(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 3)
	join := func() (*kafka.Group, *kafka.Generation) {
		g, err := cl.JoinGroup(kafka.GroupConfig{ID: topic + "-g", CoPartitioned: []string{topic}})
		if err != nil {
			t.Fatal(err)
		}
		gen, err := g.Next(w.ctx())
		if err != nil {
			t.Fatal(err)
		}
		return g, gen
	}
	g, gen := join()
	if len(gen.Assigned) != 3 {
		t.Fatal(gen.Assigned)
	}
	tp := kafka.TP{Topic: topic, Partition: 1}
	if got := gen.Assigned[tp]; got.Offset != -1 {
		t.Fatal(got)
	}
	if err := gen.Commit(w.ctx(), map[kafka.TP]kafka.Committed{tp: {Offset: 7, Metadata: "seven"}}); err != nil {
		t.Fatal(err)
	}
	gen.Release()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	g, gen = join()
	if got := gen.Assigned[tp]; got.Offset != 7 || got.Metadata != "seven" {
		t.Fatal(got)
	}
	gen.Release()
	g.Close()
}

// groupMember runs a member of a group as a service would: it keeps what it owns up to date and commits when it must let go.
type groupMember struct {
	g    *kafka.Group
	gens chan *kafka.Generation // each generation when it begins
	end  func()
}

func (w *world) member(cl *kafka.Client, gc kafka.GroupConfig, last func(*kafka.Generation)) *groupMember {
	w.t.Helper()
	g, err := cl.JoinGroup(gc)
	if err != nil {
		w.t.Fatal(err)
	}
	m := &groupMember{g: g, gens: make(chan *kafka.Generation, 100)}
	ctx, cancel := context.WithCancel(w.ctx())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			gen, err := g.Next(ctx)
			if err != nil {
				return
			}
			m.gens <- gen
			select {
			case <-gen.Done():
			case <-ctx.Done():
			}
			if last != nil {
				last(gen)
			}
			gen.Release()
		}
	}()
	m.end = sync.OnceFunc(func() { cancel(); <-done; g.Close() })
	w.t.Cleanup(m.end)
	return m
}

// settle waits until the members' newest generations are the same one and cover n partitions in all, and returns what each has.
func settle(w *world, n int, members ...*groupMember) []*kafka.Generation {
	w.t.Helper()
	ctx := w.ctx()
	now := make([]*kafka.Generation, len(members))
	for {
		total := 0
		same := true
		for i, m := range members {
			for now[i] == nil || len(m.gens) > 0 {
				select {
				case now[i] = <-m.gens:
				case <-ctx.Done():
					w.t.Fatal("the group does not settle")
				}
			}
			total += len(now[i].Assigned)
			same = same && now[i].ID == now[0].ID
		}
		if same && total == n {
			return now
		}
		// The one that lags behind will say something next.
		behind := 0
		for i := range now {
			if now[i].ID < now[behind].ID {
				behind = i
			}
		}
		select {
		case now[behind] = <-members[behind].gens:
		case <-ctx.Done():
			w.t.Fatal("the group does not settle")
		}
	}
}

func TestCoPartitionedTopicsStayTogetherOverJoinsAndLeaves(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	a, b, s := w.topic(cl, 6), w.topic(cl, 6), w.topic(cl, 4)
	gc := kafka.GroupConfig{ID: a + "-g", CoPartitioned: []string{a, b}, Spread: []string{s}}
	check := func(gens []*kafka.Generation) {
		t.Helper()
		for _, gen := range gens {
			co, spread := map[int32]int{}, 0
			for tp := range gen.Assigned {
				if tp.Topic == s {
					spread++
				} else {
					co[tp.Partition]++
				}
			}
			for p, n := range co {
				if n != 2 {
					t.Fatalf("partition %d of %d of 2 topics", p, n)
				}
			}
			if len(co) < 6/len(gens) || len(co) > (6+len(gens)-1)/len(gens) || spread < 4/len(gens) || spread > (4+len(gens)-1)/len(gens) {
				t.Fatalf("%d and %d partitions of %d members", len(co), spread, len(gens))
			}
		}
	}
	m1 := w.member(cl, gc, nil)
	one := settle(w, 16, m1)
	check(one)
	m2 := w.member(cl, gc, nil)
	two := settle(w, 16, m1, m2)
	check(two)
	m3 := w.member(cl, gc, nil)
	three := settle(w, 16, m1, m2, m3)
	check(three)
	for i := range two {
		for tp := range three[i].Assigned {
			if _, had := two[i].Assigned[tp]; !had {
				t.Errorf("member %d got %v, though it only had to give", i, tp)
			}
		}
	}
	m2.end()
	left := settle(w, 16, m1, m3)
	check(left)
	for i, before := range []*kafka.Generation{three[0], three[2]} {
		for tp := range before.Assigned {
			if _, has := left[i].Assigned[tp]; !has {
				t.Errorf("member %d lost %v, though it only had to take", i, tp)
			}
		}
	}
}

func TestAFormerOwnersCommitIsFencedAndItsLastOneIsNot(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 2)
	gc := kafka.GroupConfig{ID: topic + "-g", CoPartitioned: []string{topic}}
	p0, p1 := kafka.TP{Topic: topic}, kafka.TP{Topic: topic, Partition: 1}
	m1 := w.member(cl, gc, func(gen *kafka.Generation) { // between Done and Release the generation still stands
		if len(gen.Assigned) == 2 {
			if err := gen.Commit(w.ctx(), map[kafka.TP]kafka.Committed{p0: {Offset: 10}, p1: {Offset: 20, Metadata: "last"}}); err != nil {
				t.Error(err)
			}
		}
	})
	old := settle(w, 2, m1)[0]
	m2 := w.member(cl, gc, nil)
	gens := settle(w, 2, m1, m2)
	for _, gen := range gens {
		for tp, c := range gen.Assigned {
			if want := map[kafka.TP]kafka.Committed{p0: {Offset: 10}, p1: {Offset: 20, Metadata: "last"}}[tp]; c != want {
				t.Errorf("%v begins at %+v instead of %+v", tp, c, want)
			}
		}
	}
	if err := old.Commit(w.ctx(), map[kafka.TP]kafka.Committed{p0: {Offset: 3}, p1: {Offset: 3}}); !errors.Is(err, kafka.ErrFenced) {
		t.Fatalf("the former owner's commit: %v", err)
	}
	if none, err := cl.CommittedOffsets(w.ctx(), topic+"-nobody", []kafka.TP{p0, p1}); err != nil || none[p0].Offset != -1 || none[p1].Offset != -1 {
		t.Errorf("a group that is not there has committed %v, %v", none, err)
	}
	got, err := cl.CommittedOffsets(w.ctx(), gc.ID, []kafka.TP{p0, p1})
	if err != nil || got[p0].Offset != 10 || got[p1].Offset != 20 {
		t.Fatal(got, err)
	}
	if err := gens[0].Commit(w.ctx(), map[kafka.TP]kafka.Committed{p0: {Offset: 11, Metadata: strings.Repeat("m", kafka.MetadataLimit)}}); err != nil {
		t.Fatal(err)
	}
	if w.real {
		err := gens[0].Commit(w.ctx(), map[kafka.TP]kafka.Committed{p0: {Offset: 11, Metadata: strings.Repeat("m", kafka.MetadataLimit+1)}})
		if err == nil || errors.Is(err, kafka.ErrFenced) {
			t.Fatal(err)
		}
	}
}

func TestPositionsAreKeptOverARebalance(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	topic := w.topic(cl, 2)
	gc := kafka.GroupConfig{ID: topic + "-g", CoPartitioned: []string{topic}}
	a := cl.NewAppender(kafka.AppenderConfig{})
	p0, p1 := kafka.TP{Topic: topic}, kafka.TP{Topic: topic, Partition: 1}
	m1 := w.member(cl, gc, nil)
	f := w.run(cl, kafka.FetchConfig{}, nil)
	old := settle(w, 2, m1)[0]
	f.Assign(map[kafka.TP]int64{p0: 0, p1: 0})
	w.append(a, p0, "0")
	w.append(a, p1, "0")
	f.offsets(p0, 1)
	f.offsets(p1, 1)
	m2 := w.member(cl, gc, nil)
	gens := settle(w, 2, m1, m2)
	keep := map[kafka.TP]int64{}
	for tp := range gens[0].Assigned {
		if _, had := old.Assigned[tp]; had {
			keep[tp] = kafka.KeepPosition
		}
	}
	f.Assign(keep)
	for tp := range keep {
		w.append(a, tp, "1")
		if got := f.offsets(tp, 2); got[0] != 0 || got[1] != 1 {
			t.Fatal(got)
		}
	}
	if len(keep) != 1 {
		t.Fatal(keep)
	}
}

// What the coordinator is asked for is what it goes by.
func TestAMemberAsksForTheSessionThatIsConfigured(t *testing.T) {
	b, err := sandbox.StartBroker(sandbox.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	asked := make(chan int32, 100)
	b.Cluster().ControlKey(int16(kmsg.JoinGroup), func(q kmsg.Request) (kmsg.Response, error, bool) {
		b.Cluster().KeepControl()
		asked <- q.(*kmsg.JoinGroupRequest).SessionTimeoutMillis
		return nil, nil, false
	})
	w := &world{t: t, addrs: b.Addrs()}
	c := w.config()
	c.SessionTimeout = 2500 * time.Millisecond
	cl := w.open(c, kafka.Options{})
	topic := w.topic(cl, 1)
	m := w.member(cl, kafka.GroupConfig{ID: topic + "-g", CoPartitioned: []string{topic}}, nil)
	<-m.gens
	if got := <-asked; got != 2500 {
		t.Errorf("asked for %d ms", got)
	}
}

// Some brokers say of a group that nobody ever joined that it commits nothing, others that there is none. A command must not wait for it to appear.
func TestAGroupThatNobodyJoinedHasCommittedNothing(t *testing.T) {
	w := newWorld(t)
	cl := w.open(w.config(), kafka.Options{})
	tp := kafka.TP{Topic: w.topic(cl, 1)}
	got, err := cl.CommittedOffsets(w.ctx(), "nobody", []kafka.TP{tp})
	if err != nil || len(got) != 1 || got[tp] != (kafka.Committed{Offset: -1}) {
		t.Errorf("%v, %v", got, err)
	}
}
