package rig

import (
	"context"
	"slices"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Stages says where the time of an event went, by the append times of its records. They are whole milliseconds, cut off: half of one is added, so that
// means are right where single values are not.
type Stages struct {
	Published time.Duration // from when the event was due to when it was appended
	Routed    time.Duration // from there to when its task was
	Delivered time.Duration // from there to when its receiver had read the request
}

func (s Stages) plus(o Stages) Stages {
	return Stages{s.Published + o.Published, s.Routed + o.Routed, s.Delivered + o.Delivered}
}

func (s Stages) over(n int) Stages {
	k := time.Duration(max(n, 1))
	return Stages{s.Published / k, s.Routed / k, s.Delivered / k}
}

// Stages reads the events since m and gives the means over all of them and over their slowest hundredth. seen is what the receivers saw; of an event with
// several receivers any one counts.
func (d *Deployment) Stages(ctx context.Context, m *Marks, seen map[string][]Entry) (all, slowest Stages, err error) {
	events, retry := d.client.Topics().Events["booking"], d.client.Topics().Retry
	from := map[kafka.TP]int64{}
	for tp, at := range m.from {
		if tp.Topic == events || tp.Topic == retry {
			from[tp] = at
		}
	}
	logged, routed := map[int64]int64{}, map[int64]int64{}
	var task schemas.Task
	err = d.scan(ctx, from, func(tp kafka.TP, r *kafka.Record) bool {
		if tp.Topic == events {
			logged[eventSeq(r.Value)] = r.Time
		} else if schemas.DecodeTask(r.Value, &task) == nil {
			routed[seqOf(task.EventID)] = r.Time
		}
		return true
	})
	type way struct {
		total time.Duration
		Stages
	}
	var ways []way
	for _, entries := range seen {
		for _, e := range entries {
			at, task := logged[e.Seq], routed[e.Seq]
			if at == 0 || task == 0 {
				continue
			}
			at, task = at*1e6+5e5, task*1e6+5e5
			ways = append(ways, way{time.Duration(e.At - e.Due), Stages{time.Duration(at - e.Due), time.Duration(task - at), time.Duration(e.At - task)}})
		}
	}
	slices.SortFunc(ways, func(a, b way) int { return int(b.total - a.total) })
	few := (len(ways) + 99) / 100
	for i, w := range ways {
		if all = all.plus(w.Stages); i < few {
			slowest = slowest.plus(w.Stages)
		}
	}
	return all.over(len(ways)), slowest.over(few), err
}
