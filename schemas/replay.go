package schemas

// The kinds of a replay.
const (
	ReplayRedrive = "redrive"  // dead tasks put back in line
	ReplayReroute = "reroute"  // undecodable events sent through again
	ReplayReplay  = "replay"   // a stretch of the log routed again
	ReplayCatchUp = "catch_up" // the past part of a subscription's span
)

// The states of a replay.
const (
	ReplayRunning   = "running"
	ReplayCancelled = "cancelled"
	ReplayDone      = "done"
)

// PartitionOffset is a place in the log.
type PartitionOffset struct {
	Topic     string
	Partition int32
	Offset    int64
}

// Replay is an order for work over a stretch of the log. Whoever owns a partition of it does its part and notes it in a Progress.
// Reason, EventType, EventID, TaskID, From and To narrow it; an empty one does not. Times are ms since 1970 UTC.
type Replay struct {
	ID           string
	Kind         string
	Subscription string
	State        string
	CreatedAt    int64
	Reason       Reason
	EventType    string
	EventID      string
	TaskID       string
	From         int64
	To           int64
	Ends         []PartitionOffset // end offsets at creation: the work stops there
	Rate         float64           // tasks per second; 0: none
}

// AppendReplay appends the record, framed.
func AppendReplay(dst []byte, r *Replay) []byte { panic("BUG: not there yet") }

// DecodeReplay reads a replay into r, all of whose fields it sets. Nothing of it aliases b.
func DecodeReplay(b []byte, r *Replay) error { panic("BUG: not there yet") }
