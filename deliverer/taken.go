package deliverer

import (
	"context"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// taken is what the markers in a partition of `dead` say: which letters are taken out, and where redrives end that began without an end. It is read from the
// log, from the partition's start on, and holds for as long as the log does: no mark in Redis is needed to know that a letter was redriven last week.
//
// Markers are written by the owner of the partition alone, after the tasks that they speak of. Of two that speak of one thing the first counts; there are two
// where an owner died between a marker and its progress, or woke up after another had taken over.
type taken struct {
	next    int64 // behind the last record that was read
	letters map[recentMark]takenOut
	ends    map[string]int64 // by redrive
	names   []string         // of redrives
	numbers map[string]int32 // their places in names
}

// takenOut says who took a letter out, and which: two letters of one task and round may lie there, and are one task.
type takenOut struct {
	redrive int32 // place in names
	offset  int64
}

func newTaken() *taken {
	return &taken{letters: map[recentMark]takenOut{}, ends: map[string]int64{}, numbers: map[string]int32{}}
}

// letterOf is by what a letter is known: its task and its round, 128 bits of both.
func letterOf(t *schemas.Task) recentMark { return recentMarkOf(t.ID, t.Round, 0) }

func (k *taken) number(redrive string) int32 {
	n, ok := k.numbers[redrive]
	if !ok {
		n = int32(len(k.names))
		k.names, k.numbers[redrive] = append(k.names, redrive), n
	}
	return n
}

// note takes over a record, if it is a marker.
func (k *taken) note(r *kafka.Record) {
	k.next = max(k.next, r.Offset+1)
	var d schemas.Dead
	if !schemas.DeadTakesOut(r.Value) || schemas.DecodeDead(r.Value, &d) != nil {
		return
	}
	if d.Task.ID == "" {
		if _, ok := k.ends[d.Task.Replay]; !ok {
			k.ends[d.Task.Replay] = r.Offset
		}
		return
	}
	k.take(&d.Task, d.Task.Replay, d.Task.Source.Offset)
}

// take enters a letter that a redrive takes out. False: it is out already.
func (k *taken) take(t *schemas.Task, redrive string, offset int64) bool {
	key := letterOf(t)
	if _, ok := k.letters[key]; ok {
		return false
	}
	k.letters[key] = takenOut{k.number(redrive), offset}
	return true
}

// by is the redrive that took a letter out; empty: the letter stands.
func (k *taken) by(t *schemas.Task) string {
	if out, ok := k.letters[letterOf(t)]; ok {
		return k.names[out.redrive]
	}
	return ""
}

// tookThis says whether it was this redrive that took out this very letter.
func (k *taken) tookThis(t *schemas.Task, redrive string, offset int64) bool {
	out, ok := k.letters[letterOf(t)]
	return ok && out.offset == offset && k.names[out.redrive] == redrive
}

// forget takes back what take has entered and is not written.
func (k *taken) forget(keys []recentMark) {
	for _, key := range keys {
		delete(k.letters, key)
	}
}

// appendMarker encodes the marker of a letter; without a letter (nil) that of a redrive's end.
func appendMarker(b []byte, redrive, subscription string, letter *schemas.Task, at schemas.Source, now int64) []byte {
	d := schemas.Dead{Reason: schemas.ReasonRedriven, At: now, Task: schemas.Task{Subscription: subscription, Replay: redrive, Source: at}}
	if letter != nil {
		d.Task.ID, d.Task.Round, d.Task.Attempt = letter.ID, letter.Round, letter.Attempt
		d.Task.EventID, d.Task.EventType, d.Task.Company, d.Task.EntityID = letter.EventID, letter.EventType, letter.Company, letter.EntityID
	}
	return schemas.AppendDead(b, &d)
}

// readTaken reads the markers of partitions of `dead`, up to their ends as of now.
func readTaken(ctx context.Context, c *kafka.Client, from map[kafka.TP]int64, watch Watch) (map[int32]*taken, error) {
	out := map[int32]*taken{}
	for tp := range from {
		out[tp.Partition] = newTaken()
	}
	err := scan(ctx, c, from, watch, func(tp kafka.TP, r *kafka.Record) bool {
		out[tp.Partition].note(r)
		return true
	})
	return out, err
}
