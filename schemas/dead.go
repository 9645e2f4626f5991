package schemas

import _ "embed"

//go:embed dead.avsc
var deadSchema string

// deadFrame is the single-object frame of dead.avsc. A test holds it to the file.
const deadFrame = "\xc3\x01\x0d\x52\x71\x99\x50\xb6\x41\x31"

// Dead is a task that will not be tried again by itself. It is kept whole, so that a redrive needs nothing else; only a body that was too large
// to send is left out.
//
// Among the letters lie markers, see TakesOut.
type Dead struct {
	Task   Task
	Reason Reason
	At     int64 // ms
	Status int32 // of the last answer; 0: none
	Detail string
}

// TakesOut says that the record is no letter but a marker: a redrive has put the task back in line, and the letters of its id and round before the marker are
// taken out. A log forgets nothing, so this has to be said; it holds for as long as the letters lie there. A marker bears what names the task, but no body; in
// Replay the redrive's id, in Source the place of the letter. One that names no task says where its redrive ends: at the marker.
func (d *Dead) TakesOut() bool { return d.Reason == ReasonRedriven }

// DeadTakesOut is TakesOut for a record that is not decoded: the reason is its first field.
func DeadTakesOut(b []byte) bool {
	r, err := openRecord(b, "dead letter", deadFrame)
	if err != nil {
		return false
	}
	reason := r.span()
	return r.err == nil && string(b[reason.lo:reason.hi]) == string(ReasonRedriven)
}

// AppendDead appends the record, framed.
func AppendDead(dst []byte, d *Dead) []byte {
	b := append(dst, deadFrame...)
	b = appendString(b, string(d.Reason))
	b = appendLong(b, d.At)
	b = appendLong(b, int64(d.Status))
	b = appendText(b, d.Detail)
	b = appendTaskHead(b, &d.Task, len(d.Task.Body))
	return append(b, d.Task.Body...)
}

// DecodeDead reads a dead letter into d, all of whose fields it sets. Task.Body is a slice of b.
func DecodeDead(b []byte, d *Dead) error {
	r, err := openRecord(b, "dead letter", deadFrame)
	if err != nil {
		return err
	}
	reason := r.span()
	d.At, d.Status = r.long(), r.int()
	detail := r.span()
	readTask(&r, &d.Task)
	if err := r.end(); err != nil {
		return err
	}
	d.Reason, d.Detail = Reason(b[reason.lo:reason.hi]), string(b[detail.lo:detail.hi])
	return nil
}
