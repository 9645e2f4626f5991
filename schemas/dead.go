package schemas

// Dead is a task that will not be tried again by itself. It is kept whole, so that a redrive needs nothing else; only a body that was too large
// to send is left out.
type Dead struct {
	Task   Task
	Reason Reason
	At     int64 // ms
	Status int32 // of the last answer; 0: none
	Detail string
}

// AppendDead appends the record, framed.
func AppendDead(dst []byte, d *Dead) []byte { panic("BUG: not there yet") }

// DecodeDead reads a dead letter into d, all of whose fields it sets. Task.Body is a slice of b.
func DecodeDead(b []byte, d *Dead) error { panic("BUG: not there yet") }
