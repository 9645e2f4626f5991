package deliverer

import (
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// TestATierRecordStampedAheadOfTimeIsReadyWhenItIsDue: a broker's clock that was minutes ahead when it stamped a tier's records, and was put right, made each
// of them wait for those minutes on top of its tier's wait.
func TestATierRecordStampedAheadOfTimeIsReadyWhenItIsDue(t *testing.T) {
	in := newIntake(&Deliverer{})
	due := noon.Add(5 * time.Second)
	r := &kafka.Record{Time: noon.Add(5 * time.Minute).UnixMilli(), Value: schemas.AppendTask(nil, &schemas.Task{ID: "a", Due: due.UnixMilli()})}
	if at := in.readyAt(r, 5*time.Second, 0, noon); !at.Equal(due) {
		t.Errorf("ready at %v, due at %v", at, due)
	}
	r.Time = noon.Add(-time.Second).UnixMilli()
	if at := in.readyAt(r, 5*time.Second, 0, noon); !at.Equal(noon.Add(4 * time.Second)) {
		t.Errorf("ready at %v", at)
	}
}

// TestWhoIsHeldForItsClockGoesOnLooking: while the broker's clock differs by too much nothing is sent, so nothing was written either; and since only the
// answer to a write shows the broker's clock, nobody noticed when it was right again. So a task goes through the smallest tier now and then.
func TestWhoIsHeldForItsClockGoesOnLooking(t *testing.T) {
	d := &Deliverer{tiers: testTiers()}
	d.collector.signal = make(chan struct{}, 1)
	l := &lane{d: d, byID: map[string]*item{}, entities: map[string]*item{}}
	l.probeClock(noon) // an empty line has nothing to give
	for _, id := range []string{"a", "b"} {
		it := &item{Task: schemas.Task{ID: id}, part: &part{}, lane: l}
		l.admit(it, noon)
		l.line.push(it)
	}
	l.probeClock(noon)
	out := d.collector.ended
	if len(out) != 1 || out[0].ID != "a" || out[0].out.verdict != schemas.VerdictPostponed || !out[0].out.due.Equal(noon.Add(d.tiers[0].Wait)) || l.line.n != 1 {
		t.Errorf("%d handed back: %+v", len(out), out)
	}
}
