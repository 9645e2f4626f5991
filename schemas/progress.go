package schemas

import _ "embed"

//go:embed progress.avsc
var progressSchema string

// progressFrame is the single-object frame of progress.avsc. A test holds it to the file.
const progressFrame = "\xc3\x01\xe2\x65\x06\xa6\x43\xe0\xa2\x35"

// Progress is how far one partition of a replay has come. Next is the offset to go on from, At when this was noted (ms).
type Progress struct {
	Replay    string
	Topic     string
	Partition int32
	Next      int64
	Scanned   int64
	Matched   int64
	Done      bool
	At        int64
}

// AppendProgress appends the record, framed.
func AppendProgress(dst []byte, p *Progress) []byte {
	b := append(dst, progressFrame...)
	b = appendString(b, p.Replay)
	b = appendString(b, p.Topic)
	b = appendLong(b, int64(p.Partition))
	b = appendLong(b, p.Next)
	b = appendLong(b, p.Scanned)
	b = appendLong(b, p.Matched)
	b = appendBool(b, p.Done)
	return appendLong(b, p.At)
}

// DecodeProgress reads a progress into p, all of whose fields it sets. Nothing of it aliases b.
func DecodeProgress(b []byte, p *Progress) error {
	r, err := openRecord(b, "progress", progressFrame)
	if err != nil {
		return err
	}
	r.text = string(b)
	*p = Progress{Replay: r.str(), Topic: r.str(), Partition: r.int(), Next: r.long(), Scanned: r.long(), Matched: r.long(), Done: r.bool(), At: r.long()}
	return r.end()
}
