package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/schemas"
)

// small is a run that is in order: two companies with a receiver each, three events, the first two of them versions of one entity.
//
//	seq 0  company 0, entity 5, version 1 ─▶ a
//	seq 1  company 0, entity 5, version 2 ─▶ a
//	seq 2  company 1, entity 5, version 1 ─▶ b
type small struct {
	*Run
	t0 time.Time
}

const firstSeq = 300

func newSmall() *small {
	s := &small{t0: time.Unix(1_800_000_000, 0)}
	s.Run = &Run{
		First:     firstSeq,
		Owed:      map[string]func(int) bool{"a": func(c int) bool { return c == 0 }, "b": func(c int) bool { return c == 1 }},
		Receivers: map[string][]rig.Request{},
		Names:     []string{"a", "b"},
		Paths:     map[string]string{"a": "/ok/a", "b": "/ok/b"},
		Topics:    &rig.Topics{At: time.Unix(1_800_000_100, 0), Postponed: make([]int, 2)},
		Before:    map[string]rig.Resources{"deliverer-1": {Goroutines: 50, Descriptors: 40, RSS: 50 << 20}},
		After:     map[string]rig.Resources{"deliverer-1": {Goroutines: 55, Descriptors: 44, RSS: 70 << 20}},
	}
	for i, company := range []int{0, 0, 1} {
		s.Events = append(s.Events, rig.Sent{Company: company, Entity: 5, Version: i%2 + 1, Due: s.at(time.Duration(i) * time.Second), Fate: rig.Accepted})
		s.Topics.Logged = append(s.Topics.Logged, rig.Logged{Seq: firstSeq + int64(i), Partition: int32(company), Offset: int64(10 + i)})
		s.task(int32(company), int64(i), 0)
		s.deliver(int32(company), int64(i), 0, 1, time.Duration(i+1)*time.Second)
	}
	return s
}

func (s *small) at(d time.Duration) int64 { return s.t0.Add(d).UnixNano() }

// id of the task of an event; copy tells that of a republished one from the first.
func id(seq int64, copy int) rig.TaskID {
	return rig.TaskID([]byte(fmt.Sprintf("%020d-%05d", seq, copy)))
}

func (s *small) task(sub int32, seq int64, copy int) {
	s.Topics.Tasks = append(s.Topics.Tasks, rig.TaskRecord{ID: id(seq, copy), Subscription: sub, Seq: firstSeq + seq, Offset: 10 + seq})
}

// see adds a request that the receiver answers.
func (s *small) see(sub int32, seq int64, number int32, status int16, d time.Duration) *rig.Request {
	name := s.Names[sub]
	s.Receivers[name] = append(s.Receivers[name], rig.Request{
		N: int64(len(s.Receivers[name]) + 1), At: s.at(d), Done: s.at(d) + 1e6, Stamp: s.t0.Add(d).Unix(), Path: s.Paths[name], Name: name, Seq: firstSeq + seq,
		ID: fmt.Sprintf("msg_%d", seq), Own: rig.Valid, Ref: rig.Valid, Sum: fmt.Sprint(seq), Expected: 100, Received: 100, Attempt: number, Status: status, Outcome: rig.Answered,
	})
	return &s.Receivers[name][len(s.Receivers[name])-1]
}

func (s *small) tried(sub int32, seq int64, copy int, number int32, v schemas.Verdict, reason schemas.Reason) {
	s.Topics.Attempts = append(s.Topics.Attempts, rig.AttemptRecord{ID: id(seq, copy), Subscription: sub, Number: number, Seq: firstSeq + seq, Verdict: v, Reason: reason})
}

// deliver adds a request answered with 200 and its attempt.
func (s *small) deliver(sub int32, seq int64, copy int, number int32, d time.Duration) *rig.Request {
	s.tried(sub, seq, copy, number, schemas.VerdictDelivered, "")
	return s.see(sub, seq, number, 200, d)
}

// undo takes away what was seen, written and matched of an event at receiver a.
func (s *small) undo(seq int64, request, attempt, task bool) {
	if request {
		s.Receivers["a"] = slices.DeleteFunc(s.Receivers["a"], func(q rig.Request) bool { return q.Seq == firstSeq+seq })
	}
	if attempt {
		s.Topics.Attempts = slices.DeleteFunc(s.Topics.Attempts, func(a rig.AttemptRecord) bool { return a.Seq == firstSeq+seq })
	}
	if task {
		s.Topics.Tasks = slices.DeleteFunc(s.Topics.Tasks, func(t rig.TaskRecord) bool { return t.Seq == firstSeq+seq })
	}
}

func (s *small) fault(kind FaultKind, who string, from, to time.Duration) {
	s.Faults = append(s.Faults, Fault{kind, who, s.t0.Add(from), s.t0.Add(to)})
}

const sec = time.Second

// Each row plants one breach in a run that is in order otherwise; the checker must find its classes and no other.
func TestCheckFindsEachPlantedBreach(t *testing.T) {
	cases := map[string]struct {
		plant func(s *small)
		want  string // classes, sorted, joined with a comma
	}{
		"never routed":                         {func(s *small) { s.undo(1, true, true, true) }, "lost"},
		"acknowledged and not there":           {func(s *small) { s.undo(1, true, true, true); s.Topics.Logged = slices.Delete(s.Topics.Logged, 1, 2) }, "lost"},
		"rejected, and there":                  {func(s *small) { s.Events[1].Fate = rig.Rejected }, "ghost"},
		"routed and vanished":                  {func(s *small) { s.undo(1, true, true, false) }, "accounting,lost"},
		"said to be delivered":                 {func(s *small) { s.undo(1, true, false, false) }, "agreement,lost"},
		"delivered and not said":               {func(s *small) { s.undo(1, false, true, false) }, "accounting,agreement"},
		"answered 500, said to be delivered":   {func(s *small) { s.Receivers["a"][1].Status = 500 }, "agreement,lost"},
		"never answered, said to be delivered": {func(s *small) { s.Receivers["a"][1].Done = 0 }, "agreement,lost"},
		"still waits": {func(s *small) {
			s.undo(1, true, true, false)
			s.Topics.Waiting = []rig.Waiting{{ID: id(1, 0), Seq: firstSeq + 1}}
		}, "not yet seen"},
		"dead without a letter": {func(s *small) {
			s.undo(1, true, true, false)
			s.tried(0, 1, 0, 1, schemas.VerdictDead, schemas.ReasonGone)
		}, "accounting"},
		"a letter without a death":              {func(s *small) { s.Topics.Dead = []rig.DeadRecord{{ID: id(1, 0), Seq: firstSeq + 1}} }, "accounting"},
		"an attempt at nobody's task":           {func(s *small) { s.tried(0, 1, 7, 2, schemas.VerdictRetry, "") }, "accounting"},
		"a waiting task of nobody":              {func(s *small) { s.Topics.Waiting = []rig.Waiting{{ID: id(9, 9)}} }, "accounting"},
		"two tasks of one event":                {func(s *small) { s.task(0, 1, 1); s.tried(0, 1, 1, 1, schemas.VerdictDropped, schemas.ReasonDeleted) }, "accounting"},
		"a task for another company":            {func(s *small) { s.task(0, 2, 1); s.tried(0, 2, 1, 1, schemas.VerdictDropped, schemas.ReasonDeleted) }, "ghost"},
		"events not counted as routed":          {func(s *small) { s.Topics.RouterLag = 3 }, "accounting"},
		"nobody published it":                   {func(s *small) { s.see(0, 99, 1, 500, sec) }, "ghost"},
		"no event of ours":                      {func(s *small) { s.see(0, -firstSeq-1, 1, 500, sec) }, "ghost"},
		"a redirect was followed":               {func(s *small) { s.Never = []rig.Request{{Path: "/never/a", Seq: firstSeq}} }, "ghost"},
		"another company's event":               {func(s *small) { s.see(0, 2, 1, 500, 9*sec) }, "misrouted"},
		"twice without a fault":                 {func(s *small) { s.deliver(0, 0, 0, 1, 9*sec) }, "unexplained duplicate"},
		"twice, the first long before the kill": {func(s *small) { s.deliver(0, 0, 0, 1, 9*sec); s.fault(KillDeliverer, "deliverer-1", 8*sec, 8*sec) }, "unexplained duplicate"},
		"twice, and the kill came later": {func(s *small) {
			s.deliver(0, 0, 0, 1, 1200*time.Millisecond)
			s.fault(KillDeliverer, "", 1300*time.Millisecond, 1300*time.Millisecond)
		}, "unexplained duplicate"},
		"twice beside another fault":             {func(s *small) { s.deliver(0, 0, 0, 1, 1500*time.Millisecond); s.fault(KafkaFault, "", 0, 9*sec) }, "unexplained duplicate"},
		"twice, Redis lost its marks alone":      {func(s *small) { s.deliver(0, 0, 0, 1, 3*sec); s.fault(RedisLost, "", 0, 2*sec) }, "unexplained duplicate"},
		"twice, a router was killed":             {func(s *small) { s.deliver(0, 0, 0, 1, 3*sec); s.fault(KillRouter, "router", sec, 2*sec) }, "unexplained duplicate"},
		"twice, stalled for less than the lease": {func(s *small) { s.deliver(0, 0, 0, 1, 9*sec); s.fault(StopCont, "deliverer-1", sec, 4*sec) }, "unexplained duplicate"},
		"twice, a router was stalled":            {func(s *small) { s.deliver(0, 0, 0, 1, 29*sec); s.fault(StopCont, "router", sec, 20*sec) }, "unexplained duplicate"},
		"twice, a stop within the grace":         {func(s *small) { s.deliver(0, 0, 0, 1, 9*sec); s.fault(StopDeliverer, "deliverer-1", sec, 2*sec) }, "unexplained duplicate"},
		"three times, published twice": {func(s *small) {
			s.republish(1)
			s.deliver(0, 1, 1, 1, 9*sec)
			s.deliver(0, 1, 1, 1, 10*sec)
		}, "unexplained duplicate"},
		"a retry after a 2xx that was heard": {func(s *small) {
			s.tried(0, 0, 0, 1, schemas.VerdictRetry, schemas.ReasonTimeout)
			s.deliver(0, 0, 0, 2, 9*sec)
		}, "unexplained duplicate"},
		"a cut answer that the deliverer did not take for a failure": {func(s *small) {
			s.Receivers["a"][0].Outcome = rig.Cut
			s.deliver(0, 0, 0, 1, 9*sec)
		}, "unexplained duplicate"},
		"two ids of one event":        {func(s *small) { s.see(0, 0, 2, 500, 9*sec).ID = "msg_x" }, "identity"},
		"one id of two events":        {func(s *small) { s.Receivers["a"][1].ID = "msg_0" }, "identity"},
		"two bodies":                  {func(s *small) { s.see(0, 0, 2, 500, 9*sec).Sum = "x" }, "integrity"},
		"signature, by our own code":  {func(s *small) { s.Receivers["a"][1].Own = "mismatch" }, "integrity"},
		"signature, by the reference": {func(s *small) { s.Receivers["a"][1].Ref = "mismatch" }, "integrity"},
		"nobody knew the secret":      {func(s *small) { s.Receivers["a"][1].Own = rig.NoSecret }, "integrity"},
		"an old stamp":                {func(s *small) { s.Receivers["a"][1].Stamp -= 100 }, "integrity"},
		"a stamp from the future":     {func(s *small) { s.Receivers["a"][1].Stamp += 100 }, "integrity"},
		"cut without a fault":         {func(s *small) { s.see(0, 0, 2, 0, 9*sec).Received = 50 }, "integrity"},
		"cut beside a slow registry":  {func(s *small) { s.see(0, 0, 2, 0, 9*sec).Received = 50; s.fault(Dependency, "", 8*sec, 10*sec) }, "integrity"},
		"out of order": {func(s *small) {
			s.Receivers["a"][0].At, s.Receivers["a"][0].Done = s.at(5*sec), s.at(6*sec)
			s.Receivers["a"][0].Stamp += 4
		}, "order"},
		"out of order, and refused at first": {func(s *small) {
			q := &s.Receivers["a"][0]
			q.At, q.Done, q.Status = s.at(5*sec), s.at(5*sec)+1, 503
			q.Stamp += 4
			s.undo(0, false, true, false)
			s.tried(0, 0, 0, 1, schemas.VerdictRetry, schemas.ReasonHTTP5xx)
			s.deliver(0, 0, 0, 2, 9*sec)
		}, "order"},
		"out of order, long after a kill": {func(s *small) {
			s.Receivers["a"][0].At, s.Receivers["a"][0].Done = s.at(5*sec), s.at(6*sec)
			s.Receivers["a"][0].Stamp += 4
			s.fault(KillDeliverer, "deliverer-1", -60*sec, -60*sec)
		}, "order"},
		"a process ended by itself": {func(s *small) { s.Crashes = []rig.Crash{{Name: "router", How: "exit status 2", Log: "panic"}} }, "crash"},
		"two of an entity at once":  {func(s *small) { s.Receivers["a"][0].Done = s.at(2500 * time.Millisecond) }, "order"},
		"goroutines leak": {func(s *small) {
			s.After["deliverer-1"] = rig.Resources{Goroutines: 500, Descriptors: 40, RSS: 50 << 20}
		}, "resources"},
		"descriptors leak": {func(s *small) {
			s.After["deliverer-1"] = rig.Resources{Goroutines: 50, Descriptors: 400, RSS: 50 << 20}
		}, "resources"},
		"memory leaks": {func(s *small) {
			s.After["deliverer-1"] = rig.Resources{Goroutines: 50, Descriptors: 40, RSS: 600 << 20}
		}, "resources"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSmall()
			c.plant(s)
			f := Check(s.Run)
			var got []string
			for _, class := range f.Classes() {
				if len(class.List) > 0 {
					got = append(got, class.Name)
				}
			}
			slices.Sort(got)
			if strings.Join(got, ",") != c.want {
				t.Errorf("found %q, want %q: %+v", got, c.want, f.Classes())
			}
		})
	}
}

// republish makes an event lie in the log twice, with a task of its own.
func (s *small) republish(seq int64) {
	s.Events[seq].Fate = rig.Unknown
	s.Topics.Logged = append(s.Topics.Logged, rig.Logged{Seq: firstSeq + seq, Partition: int32(s.Events[seq].Company), Offset: 99})
	s.task(0, seq, 1)
}

// Each row is a run in order, however odd it looks; the numbers say that it was understood.
func TestCheckAllowsWhatThePromisesAllow(t *testing.T) {
	cases := map[string]struct {
		change func(s *small)
		want   func(f *Finding) bool
	}{
		"in order": {func(*small) {}, func(f *Finding) bool {
			return f.Accepted == 3 && f.Owed == 3 && f.Delivered == 3 && f.Matched == 3 && f.Ordered == 1 && f.NoOrder == ""
		}},
		"answered while the topic was read": {func(s *small) {
			s.undo(1, true, true, false)
			s.Topics.Waiting = []rig.Waiting{{ID: id(1, 0), Seq: firstSeq + 1}}
			s.see(0, 1, 1, 200, 100*sec)
		}, func(f *Finding) bool { return f.Delivered == 3 && f.InFlight == 1 }},
		"without topics": {func(s *small) { s.Topics = nil }, func(f *Finding) bool { return f.Owed == 3 && f.Delivered == 3 && f.Ordered == 1 }},
		"unknown, not in the log": {func(s *small) {
			s.Events[1].Fate = rig.Unknown
			s.Topics.Logged = slices.Delete(s.Topics.Logged, 1, 2)
			s.undo(1, true, true, true)
		}, func(f *Finding) bool { return f.Unknown == 1 && f.InLog == 0 && f.Owed == 2 }},
		"unknown, in the log": {func(s *small) { s.Events[1].Fate = rig.Unknown }, func(f *Finding) bool { return f.Unknown == 1 && f.InLog == 1 && f.Owed == 3 }},
		"published twice": {func(s *small) { s.republish(1); s.deliver(0, 1, 1, 1, 9*sec) },
			func(f *Finding) bool { return f.Republished == 1 && f.Repeats == 1 && f.Duplicates == 0 }},
		"failed, then delivered": {func(s *small) {
			s.undo(1, true, true, false)
			s.see(0, 1, 1, 503, 2*sec)
			s.tried(0, 1, 0, 1, schemas.VerdictRetry, schemas.ReasonHTTP5xx)
			s.deliver(0, 1, 0, 2, 7*sec)
		}, func(f *Finding) bool { return f.Delivered == 3 && f.Duplicates == 0 }},
		"dead": {func(s *small) {
			s.undo(1, true, true, false)
			s.see(0, 1, 1, 410, 2*sec)
			s.tried(0, 1, 0, 1, schemas.VerdictDead, schemas.ReasonGone)
			s.Topics.Dead = []rig.DeadRecord{{ID: id(1, 0), Seq: firstSeq + 1}}
		}, func(f *Finding) bool { return f.Dead == 1 && f.Delivered == 2 }},
		"dropped": {func(s *small) {
			s.undo(1, true, true, false)
			s.tried(0, 1, 0, 1, schemas.VerdictDropped, schemas.ReasonDeleted)
		},
			func(f *Finding) bool { return f.Dropped == 1 }},
		"waits for a receiver that never answers": {func(s *small) {
			s.undo(1, true, true, false)
			s.Paths["a"] = "/status/503/a"
			s.Topics.Waiting = []rig.Waiting{{ID: id(1, 0), Seq: firstSeq + 1}}
		}, func(f *Finding) bool { return f.Waiting == 1 && f.InFlight == 1 }},
		"a task written twice by two routers": {func(s *small) { s.task(0, 1, 0) }, func(f *Finding) bool { return f.Matched == 3 }},
		"under way at a kill": {func(s *small) {
			s.Receivers["a"][1].Done = s.at(4 * sec)
			s.see(0, 1, 1, 200, 9*sec)
			s.fault(KillDeliverer, "deliverer-1", 3*sec, 3*sec)
		}, explainedAs("under way")},
		"ended just before a kill, and not written down": {func(s *small) {
			s.see(0, 1, 1, 200, 9*sec)
			s.fault(KillDeliverer, "", 2500*time.Millisecond, 2500*time.Millisecond)
		}, explainedAs("commit interval")},
		"stalled beyond the lease": {func(s *small) { s.deliver(0, 1, 0, 1, 9*sec); s.fault(StopCont, "deliverer-2", 2*sec, 8*sec) }, explainedAs("SIGSTOP")},
		"a kill beside a Redis without marks": {func(s *small) {
			s.deliver(0, 0, 0, 1, 9*sec)
			s.fault(RedisLost, "", 5*sec, 5*sec)
			s.fault(KillDeliverer, "", 6*sec, 6*sec)
		}, explainedAs("Redis")},
		"a router's death beside a Redis without marks": {func(s *small) {
			s.deliver(0, 0, 0, 1, 9*sec)
			s.fault(RedisLost, "", 5*sec, 5*sec)
			s.fault(KillRouter, "", 6*sec, 6*sec)
		}, explainedAs("router")},
		"a kill while Kafka takes no commits": {func(s *small) {
			s.deliver(0, 0, 0, 1, 19*sec)
			s.fault(KafkaFault, "", 1500*time.Millisecond, 12*sec)
			s.fault(KillDeliverer, "", 10*sec, 10*sec)
		}, explainedAs("Kafka")},
		"cut by the grace": {func(s *small) {
			s.Receivers["a"][1].Done = s.at(6 * sec)
			s.see(0, 1, 1, 200, 9*sec)
			s.fault(StopDeliverer, "deliverer-1", 3*sec, 5*sec)
		}, explainedAs("grace")},
		"an answer that was cut, and the next try": {func(s *small) {
			s.undo(1, true, true, false)
			s.see(0, 1, 1, 200, 2*sec).Outcome = rig.Cut
			s.tried(0, 1, 0, 1, schemas.VerdictRetry, schemas.ReasonTimeout)
			s.deliver(0, 1, 0, 2, 9*sec)
		}, explainedAs("cut or late")},
		"a request cut by a kill": {func(s *small) {
			q := s.see(0, 1, 1, 0, 1900*time.Millisecond)
			q.Received, q.Sum = 20, "-"
			s.fault(KillDeliverer, "", 1900*time.Millisecond, 1900*time.Millisecond)
		}, func(f *Finding) bool { return f.NearDeath == 1 }},
		"out of order after a kill": {func(s *small) {
			s.Receivers["a"][0].At, s.Receivers["a"][0].Done = s.at(5*sec), s.at(5*sec)+1
			s.fault(KillDeliverer, "", sec, sec)
		}, func(f *Finding) bool { return f.Ordered == 0 && f.NearDeath == 1 }},
		"in order, long after a kill": {func(s *small) { s.fault(KillDeliverer, "", -60*sec, -60*sec) }, func(f *Finding) bool { return f.Ordered == 1 && f.NearDeath == 0 }},
		"out of order where tasks were handed back": {func(s *small) {
			s.Receivers["a"][0].At, s.Receivers["a"][0].Done = s.at(5*sec), s.at(5*sec)+1
			s.Topics.Postponed[0] = 1
		}, func(f *Finding) bool { return f.Ordered == 0 && f.NoOrder != "" }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSmall()
			c.change(s)
			if f := Check(s.Run); !f.OK() || !c.want(f) {
				t.Errorf("%v: %+v", f, f)
			}
		})
	}
}

func explainedAs(part string) func(f *Finding) bool {
	return func(f *Finding) bool {
		for why, n := range f.Explained {
			if strings.Contains(why, part) && n == 1 && f.Duplicates == 1 {
				return true
			}
		}
		return false
	}
}
