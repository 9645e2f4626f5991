package schemas

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
func AppendProgress(dst []byte, p *Progress) []byte { panic("BUG: not there yet") }

// DecodeProgress reads a progress into p, all of whose fields it sets. Nothing of it aliases b.
func DecodeProgress(b []byte, p *Progress) error { panic("BUG: not there yet") }
