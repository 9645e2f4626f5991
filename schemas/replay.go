package schemas

import _ "embed"

//go:embed replay.avsc
var replaySchema string

// replayFrame is the single-object frame of replay.avsc. A test holds it to the file.
const replayFrame = "\xc3\x01\xcf\x1d\x80\xbe\xd9\xc6\x87\x49"

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
	ReplayPaused    = "paused"
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
// Company, Reason, Events, Entity, EventID, TaskID, From and To narrow it; an empty one does not. Times are ms since 1970 UTC.
//
// A replay without To ends at its Ends. A catch-up has no To: it ends at the first cut "live" behind From, which stands in the subscription's record and is
// written after the order. Until it is, the order waits; so who starts a subscription and dies on the way leaves an order that does nothing, and never a span that nobody works off.
type Replay struct {
	ID           string
	Kind         string
	Subscription string // empty: every one of Company
	Company      string // empty: every one
	State        string
	Note         string // why it is in that state
	CreatedAt    int64
	Reason       Reason
	Events       []string // patterns
	Entity       string
	EventID      string
	TaskID       string
	From         int64
	To           int64
	Cut          int64             // of a redrive after a pause: the paused cut; the work begins when the subscription is live behind it
	Begins       []PartitionOffset // where the work begins; a partition that is not named: where From says
	Ends         []PartitionOffset // where the work stops: end offsets at creation
	Rate         float64           // tasks per second; 0: none
}

// AppendReplay appends the record, framed.
func AppendReplay(dst []byte, r *Replay) []byte {
	b := append(dst, replayFrame...)
	b = appendString(b, r.ID)
	b = appendString(b, r.Kind)
	b = appendString(b, r.Subscription)
	b = appendString(b, r.Company)
	b = appendString(b, r.State)
	b = appendText(b, r.Note)
	b = appendLong(b, r.CreatedAt)
	b = appendString(b, string(r.Reason))
	b = appendCount(b, len(r.Events))
	for _, e := range r.Events {
		b = appendString(b, e)
	}
	b = append(b, endBlocks)
	b = appendString(b, r.Entity)
	b = appendString(b, r.EventID)
	b = appendString(b, r.TaskID)
	b = appendLong(b, r.From)
	b = appendLong(b, r.To)
	b = appendLong(b, r.Cut)
	b = appendOffsets(b, r.Begins)
	b = appendOffsets(b, r.Ends)
	return appendDouble(b, r.Rate)
}

func appendOffsets(b []byte, list []PartitionOffset) []byte {
	b = appendCount(b, len(list))
	for i := range list {
		b = appendString(b, list[i].Topic)
		b = appendLong(b, int64(list[i].Partition))
		b = appendLong(b, list[i].Offset)
	}
	return append(b, endBlocks)
}

// DecodeReplay reads a replay into p, all of whose fields it sets. Nothing of it aliases b.
func DecodeReplay(b []byte, p *Replay) error {
	r, err := openRecord(b, "replay", replayFrame)
	if err != nil {
		return err
	}
	r.text = string(b)
	*p = Replay{ID: r.str(), Kind: r.str(), Subscription: r.str(), Company: r.str(), State: r.str(), Note: r.str(), CreatedAt: r.long(), Reason: Reason(r.str())}
	r.blocks(func() { p.Events = append(p.Events, r.str()) })
	p.Entity, p.EventID, p.TaskID, p.From, p.To, p.Cut = r.str(), r.str(), r.str(), r.long(), r.long(), r.long()
	offset := func() PartitionOffset { return PartitionOffset{Topic: r.str(), Partition: r.int(), Offset: r.long()} }
	r.blocks(func() { p.Begins = append(p.Begins, offset()) })
	r.blocks(func() { p.Ends = append(p.Ends, offset()) })
	p.Rate = r.double()
	return r.end()
}
