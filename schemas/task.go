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
	Round               int64 // how often a redrive has taken it out of `dead`
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

// taskFrame is the single-object frame of task.avsc. A test holds it to the file.
const taskFrame = "\xc3\x01\xe8\x41\x59\xad\xf8\x95\x6d\xc6"

// AppendTaskHead appends all of a task but the bytes of its body, of which only the length is written: head + body is what AppendTask writes.
// The router builds a body once and puts a head of some 300 bytes before it for every subscription that wants it.
func AppendTaskHead(dst []byte, t *Task, bodyLen int) []byte {
	dst = append(dst, taskFrame...)
	return appendTaskHead(dst, t, bodyLen)
}

func appendTaskHead(b []byte, t *Task, bodyLen int) []byte {
	b = appendString(b, t.ID)
	b = appendString(b, t.EventID)
	b = appendString(b, t.EventType)
	b = appendString(b, t.Company)
	b = appendString(b, t.EntityID)
	b = appendLong(b, t.EntityVersion)
	b = appendString(b, t.Subscription)
	b = appendLong(b, t.SubscriptionVersion)
	b = appendSource(b, &t.Source)
	b = appendLong(b, t.OccurredAt)
	b = appendLong(b, t.CreatedAt)
	b = appendLong(b, int64(t.Attempt))
	b = appendLong(b, t.Round)
	b = appendLong(b, t.Due)
	b = appendString(b, string(t.Lane))
	b = appendString(b, t.Replay)
	b = appendLong(b, int64(t.Postponed))
	b = appendLong(b, t.FirstTriedAt)
	if t.Last == nil {
		b = appendLong(b, 0)
	} else {
		b = appendLong(b, 1)
		b = appendLong(b, t.Last.At)
		b = appendLong(b, int64(t.Last.Status))
		b = appendString(b, string(t.Last.Reason))
		b = appendText(b, t.Last.Detail)
	}
	b = appendString(b, t.ContentType)
	return appendLong(b, int64(bodyLen))
}

// AppendTask appends the whole record, framed.
func AppendTask(dst []byte, t *Task) []byte {
	dst = AppendTaskHead(dst, t, len(t.Body))
	return append(dst, t.Body...)
}

// DecodeTask reads a task into t, all of whose fields it sets. Strings are cut from one copy of the head, and Body is a slice of b: who keeps the
// task keeps b.
func DecodeTask(b []byte, t *Task) error {
	r, err := openRecord(b, "task", taskFrame)
	if err != nil {
		return err
	}
	readTask(&r, t)
	return r.end()
}

// readTask reads in two steps, because one copied string shall carry all the text and nothing of the body, and where the head ends is known only
// once it is read: first every value and the places of the strings, then the copy, and the strings are cut from it.
func readTask(r *reader, t *Task) {
	start := r.p
	var at [12]span
	at[0], at[1], at[2], at[3], at[4] = r.span(), r.span(), r.span(), r.span(), r.span()
	t.EntityVersion = r.long()
	at[5] = r.span()
	t.SubscriptionVersion = r.long()
	at[6] = r.span()
	t.Source.Partition, t.Source.Offset, t.Source.Time = r.int(), r.long(), r.long()
	t.OccurredAt, t.CreatedAt = r.long(), r.long()
	t.Attempt, t.Round, t.Due = r.int(), r.long(), r.long()
	at[7], at[8] = r.span(), r.span()
	t.Postponed, t.FirstTriedAt = r.int(), r.long()
	t.Last = nil
	if r.optional() {
		t.Last = &LastAttempt{At: r.long(), Status: r.int()}
		at[9], at[10] = r.span(), r.span()
	}
	at[11] = r.span()
	head := r.p
	t.Body = r.bytes()
	if r.err != nil {
		*t = Task{}
		return
	}
	text := string(r.b[start:head])
	cut := func(s span) string {
		if s.lo == s.hi {
			return ""
		}
		return text[s.lo-start : s.hi-start]
	}
	t.ID, t.EventID, t.EventType, t.Company, t.EntityID = cut(at[0]), cut(at[1]), cut(at[2]), cut(at[3]), cut(at[4])
	t.Subscription, t.Source.Topic = cut(at[5]), cut(at[6])
	t.Lane, t.Replay = LaneKind(cut(at[7])), cut(at[8])
	if t.Last != nil {
		t.Last.Reason, t.Last.Detail = Reason(cut(at[9])), cut(at[10])
	}
	t.ContentType = cut(at[11])
}
