package schemas

import _ "embed"

// LaneKind says by which way a task came: the live path, the past part of a subscription's span, or a replay.
type LaneKind string

const (
	LaneLive    LaneKind = "live"
	LaneCatchUp LaneKind = "catch_up"
	LaneReplay  LaneKind = "replay"
)

// Task is one event owed to one subscription. Times are ms since 1970 UTC, and 0 means none.
//
// It is self-contained on purpose: a deliverer sends it without looking at the event again, and every try sends the same bytes.
type Task struct {
	ID                  string
	EventID             string
	EventType           string
	Company             string
	EntityID            string
	EntityVersion       int64
	Subscription        string
	SubscriptionVersion int64
	Source              Source
	OccurredAt          int64
	CreatedAt           int64
	Attempt             int32 // number of the next attempt; 1 = the first
	Round               int64 // 0, or the offset + 1 of the dead letter that a redrive took it from
	Due                 int64 // 0 = now
	Lane                LaneKind
	Replay              string // id of the replay or catch-up; empty when live
	Postponed           int32  // times handed back without a try
	FirstTriedAt        int64  // the schedule counts from it; 0 = never tried
	Last                *LastAttempt
	ContentType         string
	Body                []byte // the exact bytes to send; last on the wire, so that one body is shared by many tasks
}

// LastAttempt is what the attempt before said. Detail is text that the owner of the subscription may see.
type LastAttempt struct {
	At     int64
	Status int32
	Reason Reason
	Detail string
}

//go:embed task.avsc
var taskSchema string

// AppendTaskHead appends all of a task but the bytes of its body, of which only the length is written: head + body is what AppendTask writes.
// The router builds a body once and puts a head of some 300 bytes before it for every subscription that wants it.
func AppendTaskHead(dst []byte, t *Task, bodyLen int) []byte { panic("BUG: not there yet") }

// AppendTask appends the whole record, framed.
func AppendTask(dst []byte, t *Task) []byte {
	dst = AppendTaskHead(dst, t, len(t.Body))
	return append(dst, t.Body...)
}

// DecodeTask reads a task into t, all of whose fields it sets. Strings are cut from one copy of the head, and Body is a slice of b: who keeps the
// task keeps b.
func DecodeTask(b []byte, t *Task) error { panic("BUG: not there yet") }
