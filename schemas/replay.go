package schemas

import _ "embed"

//go:embed replay.avsc
var replaySchema string

// replayFrame is the single-object frame of replay.avsc. A test holds it to the file.
const replayFrame = "\xc3\x01\x80\xfd\x57\x3d\x6a\x34\xf2\xe0"

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
func AppendReplay(dst []byte, r *Replay) []byte {
	b := append(dst, replayFrame...)
	b = appendString(b, r.ID)
	b = appendString(b, r.Kind)
	b = appendString(b, r.Subscription)
	b = appendString(b, r.State)
	b = appendLong(b, r.CreatedAt)
	b = appendString(b, string(r.Reason))
	b = appendString(b, r.EventType)
	b = appendString(b, r.EventID)
	b = appendString(b, r.TaskID)
	b = appendLong(b, r.From)
	b = appendLong(b, r.To)
	b = appendCount(b, len(r.Ends))
	for i := range r.Ends {
		b = appendString(b, r.Ends[i].Topic)
		b = appendLong(b, int64(r.Ends[i].Partition))
		b = appendLong(b, r.Ends[i].Offset)
	}
	b = append(b, endBlocks)
	return appendDouble(b, r.Rate)
}

// DecodeReplay reads a replay into p, all of whose fields it sets. Nothing of it aliases b.
func DecodeReplay(b []byte, p *Replay) error {
	r, err := openRecord(b, "replay", replayFrame)
	if err != nil {
		return err
	}
	r.text = string(b)
	*p = Replay{ID: r.str(), Kind: r.str(), Subscription: r.str(), State: r.str(), CreatedAt: r.long(), Reason: Reason(r.str())}
	p.EventType, p.EventID, p.TaskID, p.From, p.To = r.str(), r.str(), r.str(), r.long(), r.long()
	r.blocks(func() { p.Ends = append(p.Ends, PartitionOffset{Topic: r.str(), Partition: r.int(), Offset: r.long()}) })
	p.Rate = r.double()
	return r.end()
}
