package router

import (
	"context"
	"fmt"
	"time"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// ReplayDraft says what a replay is to route again, and to whom. Exactly one of Subscription, Company and All is set.
type ReplayDraft struct {
	Subscription string
	Company      string // every active subscription of the company (those of company "*" are not meant)
	All          bool   // every active subscription, each with the events of its company
	// From and To bound the append times: From is in, To is out. A zero From is the earliest event that is left, a zero To is now.
	From, To time.Time
	// Begins and Ends bound offsets, for the partitions that they name. If there are any, only those partitions are scanned. Both bounds hold: a
	// partition with an offset of its own is narrowed by From and To as well, where these are set.
	Begins, Ends []schemas.PartitionOffset
	Events       []string // patterns; none: all that a subscription wants
	Entity       string
	EventID      string
	Rate         float64 // tasks per second; 0: none. A subscription's own rate of replays holds beside it
}

// ReplayPlan is what a replay would do: a dry run.
type ReplayPlan struct {
	Draft         ReplayDraft // with its times filled in
	Subscriptions int         // active ones that it is for
	LeftOut       int         // paused and disabled ones of the company, or of all
	Scanned       int64       // records in the range
	Matched       int64       // events that somebody wants
	Tasks         int64
	Bytes         int64 // of bodies to send
	Undecodable   int64 // records in the range that cannot be read: they stand in `undecodable`
	Topics        []ReplayPlanTopic
	// Time is the least that the sends take at the rates of the draft and of the subscriptions; 0: no rate bounds them.
	Time time.Duration
	// Gone is true if retention has removed events since From: the range begins later than was asked.
	Gone bool
}

// ReplayPlanTopic is a plan's part of one topic.
type ReplayPlanTopic struct {
	Topic                          string
	Scanned, Matched, Tasks, Bytes int64
}

// ReplayError says what is wrong with a draft, or why a replay cannot be changed.
type ReplayError struct{ code, sentence string }

func (e *ReplayError) Error() string { return e.sentence }

// Code is stable: programs may compare it. It is one of the Code constants below.
func (e *ReplayError) Code() string { return e.code }

// The codes of a ReplayError.
const (
	CodeReplayWho        = "replay_who"         // not exactly one of subscription, company and all
	CodeReplayRange      = "replay_range"       // From is not before To, or To lies ahead
	CodeReplayRate       = "replay_rate"        // below zero or not a number
	CodeReplayNobody     = "replay_nobody"      // no such subscription, or it is deleted, or the company has no active one
	CodeReplayNotActive  = "replay_not_active"  // the one subscription is paused or disabled
	CodeReplayNotFound   = "replay_not_found"   // no replay of that id
	CodeReplayOver       = "replay_over"        // it is done or cancelled, and stays so
	CodeReplayIsCatchUp  = "replay_is_catch_up" // a catch-up is owed: it may be paused, not cancelled
	CodeReplayOtherOrder = "replay_other_order" // a redrive or a reroute: its own command changes it
)

func replayErrorf(code, format string, args ...any) error {
	return &ReplayError{code, fmt.Sprintf(format, args...)}
}

// PlanReplay scans the range of a draft and counts what it would do; nothing is written. The table must be loaded. progress, if not nil, learns how far it is.
func PlanReplay(ctx context.Context, c *kafka.Client, table *subscriptions.Table, cfg Config, d ReplayDraft, progress ScanProgress) (*ReplayPlan, error) {
	return nil, nil
}

// StartReplay checks a draft and writes the order. It has effect while routers run, or when they are started. The table must be loaded.
func StartReplay(ctx context.Context, c *kafka.Client, table *subscriptions.Table, d ReplayDraft) (*schemas.Replay, error) {
	return nil, nil
}

// SetReplayState pauses, resumes (state running) or cancels a replay, and returns the order as it stands then. A catch-up may be paused and resumed. To set
// a state that stands already is no change. Routers obey before their next batch.
func SetReplayState(ctx context.Context, c *kafka.Client, id, state, note string) (*schemas.Replay, error) {
	return nil, nil
}

// FindReplay reads the order of a replay or catch-up back; nil if there is none of that id.
func FindReplay(ctx context.Context, c *kafka.Client, id string) (*schemas.Replay, error) {
	return nil, nil
}

// ReplayInfo is a row of a list: an order, and what its partitions have noted so far.
type ReplayInfo struct {
	schemas.Replay
	Scanned, Matched int64
	Parts, PartsDone int // partitions that noted something, and those of them that are through
	NotedAt          int64
}

// ListReplays lists replays and catch-ups, the newest first.
func ListReplays(ctx context.Context, c *kafka.Client) ([]ReplayInfo, error) {
	return nil, nil
}

// ReplayPart is how far a replay has come in one partition of a topic of events.
type ReplayPart struct {
	Topic     string
	Partition int32
	Begin     int64
	Next      int64
	End       int64 // -1: not known yet, because the span of the catch-up has no end yet
	Scanned   int64
	Matched   int64 // tasks made
	Done      bool
}

// ReplayProgress is how far a replay has come.
type ReplayProgress struct {
	Replay   schemas.Replay
	Parts    []ReplayPart // by topic and partition; only those with something to do
	Scanned  int64        // offsets that are behind it, over all parts
	Total    int64        // offsets in all; 0: not known yet
	Matched  int64        // tasks made
	Rate     float64      // offsets a second, over the last minute
	TaskRate float64      // tasks a second, over the last minute
	// Left is how long the rest takes at Rate; 0: done, or nobody knows.
	Left time.Duration
}

// ReplayState reads how far a replay or catch-up has come. The table serves to find where a catch-up ends; nil: its end counts as not known.
func ReplayState(ctx context.Context, c *kafka.Client, table *subscriptions.Table, id string) (*ReplayProgress, error) {
	return nil, nil
}
