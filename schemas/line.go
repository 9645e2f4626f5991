package schemas

import _ "embed"

//go:embed line.avsc
var lineSchema string

// lineFrame is the single-object frame of line.avsc. A test holds it to the file.
const lineFrame = "\xc3\x01\xb4\x12\x38\xe5\x14\x85\x93\xfd"

// Line is one member of a line: a task of a subscription with `order: entity` that waits in a tier, by the place of its event. What comes later of the same
// entity waits for it. A tombstone under the same key takes it out.
//
// A record without a subscription is a fence: behind it in its partition, members with a smaller Epoch were written by an owner that had lost the partition.
type Line struct {
	Epoch        int64
	Subscription string
	Entity       string
	Topic        string // of the event
	Partition    int32
	Offset       int64
	Due          int64 // ms
}

// AppendLine appends the record, framed.
func AppendLine(dst []byte, l *Line) []byte {
	b := append(dst, lineFrame...)
	b = appendLong(b, l.Epoch)
	b = appendString(b, l.Subscription)
	b = appendString(b, l.Entity)
	b = appendString(b, l.Topic)
	b = appendLong(b, int64(l.Partition))
	b = appendLong(b, l.Offset)
	return appendLong(b, l.Due)
}

// DecodeLine reads a line into p, all of whose fields it sets. Nothing of it aliases b.
func DecodeLine(b []byte, p *Line) error {
	r, err := openRecord(b, "line", lineFrame)
	if err != nil {
		return err
	}
	r.text = string(b)
	*p = Line{Epoch: r.long(), Subscription: r.str(), Entity: r.str(), Topic: r.str(), Partition: r.int(), Offset: r.long(), Due: r.long()}
	return r.end()
}
