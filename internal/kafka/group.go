package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/findcoordinator"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"
	"github.com/segmentio/kafka-go/protocol/offsetfetch"
	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
)

// The group's times. The session (Config.SessionTimeout) bounds how long partitions of a dead member lie idle, and a lost coordinator: kafka-go joins again
// as a new member, and the coordinator waits for the old one to time out. The heartbeat is how a member learns that another joins or leaves, and until all
// have learned it nothing new is sent or routed: so it is short, a tenth of the shortest session that is allowed. It costs the coordinator ten small requests a second and member.
const (
	heartbeat   = 100 * time.Millisecond
	joinBackoff = 300 * time.Millisecond
)

// RebalanceTimeout is how long the others wait for a member that must release its generation, from Done on; then they go on without it.
const RebalanceTimeout = 10 * time.Second

// MetadataLimit is the most bytes of metadata that a broker keeps with an offset (offset.metadata.max.bytes).
const MetadataLimit = 4096

// GroupConfig names a group and what its members share.
type GroupConfig struct {
	ID            string
	CoPartitioned []string // partition p of all of them goes to one member
	Spread        []string // their partitions are spread evenly
}

// Committed is a committed offset.
type Committed struct {
	Offset   int64 // the next one to read; -1: none was ever committed
	Metadata string
}

// ErrFenced: the generation is over; another one owns the partitions now.
var ErrFenced = errors.New("kafka: this generation of the group is over")

// Group is this process's membership: kafka-go's ConsumerGroup (it joins, beats and leaves), our balancer, and commits of our own,
// because kafka-go's carry no metadata. Never kafka-go's Reader: its commits are not fenced.
type Group struct {
	c  *Client
	gc GroupConfig
	b  *balancer
	cg *kgo.ConsumerGroup

	mu          sync.Mutex
	coordinator string // address; "": ask
}

// JoinGroup makes a member. It makes no round trip: the member joins in the background, and Next hands out what it got.
func (c *Client) JoinGroup(gc GroupConfig) (*Group, error) {
	topics := slices.Concat(gc.CoPartitioned, gc.Spread)
	if gc.ID == "" || len(topics) == 0 {
		return nil, errors.New("a group needs an id and topics")
	}
	b := &balancer{gc: gc}
	log := c.log.With(zap.String("group", gc.ID)).Sugar()
	cg, err := kgo.NewConsumerGroup(kgo.ConsumerGroupConfig{
		ID: gc.ID, Brokers: c.cfg.Brokers, Dialer: c.dialer(), Topics: topics, GroupBalancers: []kgo.GroupBalancer{b},
		HeartbeatInterval: c.calm.heartbeat, SessionTimeout: c.cfg.SessionTimeout, RebalanceTimeout: RebalanceTimeout, JoinGroupBackoff: joinBackoff,
		StartOffset: kgo.FirstOffset, // of no effect: where to start without a commit is the caller's decision
		Logger:      kgo.LoggerFunc(log.Debugf), ErrorLogger: kgo.LoggerFunc(log.Debugf),
	})
	if err != nil {
		return nil, err
	}
	return &Group{c: c, gc: gc, b: b, cg: cg}, nil
}

// Next waits for the next generation. Transient errors are logged and survived; it fails only when ctx ends or the group is closed.
// The generation before must have been released.
func (g *Group) Next(ctx context.Context) (*Generation, error) {
	said := ""
	for {
		gen, err := g.cg.Next(ctx)
		if err == nil {
			if out, err := g.begin(ctx, gen); err == nil {
				return out, nil
			} else if ctx.Err() != nil {
				return nil, ctx.Err()
			} else {
				g.c.log.Warn("group: joined, but could not begin; joining again", zap.String("group", g.gc.ID), zap.Error(err))
			}
			continue
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, kgo.ErrGroupClosed) {
			return nil, ErrClosed
		}
		if text := err.Error(); text != said { // once per change, not once per try
			said = text
			g.c.log.Warn("group: cannot join; trying on", zap.String("group", g.gc.ID), zap.Error(err))
		}
		if e := sleep(ctx, 20*time.Millisecond); e != nil {
			return nil, e
		}
	}
}

// begin holds kafka-go's generation open and reads what was committed.
func (g *Group) begin(ctx context.Context, gen *kgo.Generation) (*Generation, error) {
	out := &Generation{ID: gen.ID, Member: gen.MemberID, Assigned: map[TP]Committed{}, g: g, done: make(chan struct{}), release: make(chan struct{})}
	var tps []TP
	for topic, list := range gen.Assignments {
		for _, a := range list {
			tps = append(tps, TP{topic, int32(a.ID)})
		}
	}
	// kafka-go ends the generation when this function returns, and joins the next one no sooner.
	gen.Start(func(gctx context.Context) {
		select {
		case <-gctx.Done():
			close(out.done)
			<-out.release
		case <-out.release:
			close(out.done)
		}
	})
	g.sayMissing(ctx, tps)
	err := g.fetchOffsets(ctx, tps, out)
	if err != nil {
		out.Release()
		return nil, err
	}
	g.b.remember(gen.ID, out.Assigned)
	return out, nil
}

// sayMissing names topics that nobody can own because they are not there.
func (g *Group) sayMissing(ctx context.Context, tps []TP) {
	topics := slices.Concat(g.gc.CoPartitioned, g.gc.Spread)
	if g.c.meta.want(topics...) {
		return
	}
	if g.c.refresh(ctx) != nil {
		return
	}
	for _, t := range topics {
		if g.c.meta.partitions(t) == 0 {
			g.c.log.Error("group: a topic is missing, nothing of it is read; run: hookferry topics create", zap.String("group", g.gc.ID), zap.String("topic", t))
		}
	}
}

// fetchOffsets reads what is committed for tps, until every answer is clean: an error is not the same as "none".
func (g *Group) fetchOffsets(ctx context.Context, tps []TP, out *Generation) error {
	for try := 0; len(tps) > 0; try++ {
		r, err := g.tryOffsetFetch(ctx, tps)
		if err == nil {
			out.Assigned = r
			return nil
		}
		if g.cg == nil && errors.Is(err, kgo.GroupAuthorizationFailed) { // a command's: a service tries on until it may
			return &DeniedError{g.gc.ID, err}
		}
		select {
		case <-out.done:
			return fmt.Errorf("read committed offsets: %w (%w)", ErrFenced, err)
		default:
		}
		if e := sleep(ctx, backoff(try)); e != nil {
			return fmt.Errorf("read committed offsets: %w (%w)", e, err)
		}
	}
	return nil
}

func (g *Group) tryOffsetFetch(ctx context.Context, tps []TP) (map[TP]Committed, error) {
	addr, err := g.findCoordinator(ctx)
	if err != nil {
		return nil, err
	}
	req := &offsetfetch.Request{GroupID: g.gc.ID}
	for topic, list := range byTopic(tps) {
		req.Topics = append(req.Topics, offsetfetch.RequestTopic{Name: topic, PartitionIndexes: list})
	}
	if err := fault.Before(fault.KafkaCommitted); err != nil {
		return nil, err
	}
	m, err := g.c.ask(ctx, addr, req, requestTimeout)
	if err = fault.After(fault.KafkaCommitted, err); err != nil {
		g.forgetCoordinator()
		return nil, err
	}
	r := m.(*offsetfetch.Response)
	found := make(map[TP]Committed, len(tps))
	if g.cg == nil && kgo.Error(r.ErrorCode) == kgo.GroupIdNotFound { // nobody ever joined, which only who is no member himself may believe
		for _, tp := range tps {
			found[tp] = Committed{Offset: -1}
		}
		return found, nil
	}
	if err := g.coordinated(r.ErrorCode); err != nil {
		return nil, err
	}
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			if err := g.coordinated(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("%s/%d: %w", t.Name, p.PartitionIndex, err)
			}
			found[TP{t.Name, p.PartitionIndex}] = Committed{max(-1, p.CommittedOffset), p.Metadata}
		}
	}
	for _, tp := range tps {
		if _, ok := found[tp]; !ok {
			return nil, fmt.Errorf("the coordinator leaves out %s/%d", tp.Topic, tp.Partition)
		}
	}
	return found, nil
}

func byTopic(tps []TP) map[string][]int32 {
	out := map[string][]int32{}
	for _, tp := range tps {
		out[tp.Topic] = append(out[tp.Topic], tp.Partition)
	}
	return out
}

// DeniedError is returned when the brokers do not let us see what a group has committed.
type DeniedError struct {
	Group string
	Err   error
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("the offsets of group %s may not be read (the ACL must allow Describe on it): %v", e.Group, e.Err)
}

func (e *DeniedError) Unwrap() error { return e.Err }

// Code is stable: programs may compare it.
func (e *DeniedError) Code() string { return "kafka_denied" }

// CommittedOffsets reads what a group has committed for partitions, without being a member: for commands. -1: none.
func (c *Client) CommittedOffsets(ctx context.Context, group string, tps []TP) (map[TP]Committed, error) {
	g := &Group{c: c, gc: GroupConfig{ID: group}}
	out := &Generation{}
	if err := g.fetchOffsets(ctx, tps, out); err != nil {
		return nil, err
	}
	return out.Assigned, nil
}

// findCoordinator asks any broker who coordinates the group, unless that is known.
func (g *Group) findCoordinator(ctx context.Context) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock() // over the round trip: others want the same answer
	if g.coordinator != "" {
		return g.coordinator, nil
	}
	var errs []error
	for _, addr := range g.c.meta.addrs(g.c.cfg.Brokers) {
		m, err := g.c.ask(ctx, addr, &findcoordinator.Request{Key: g.gc.ID}, dialTimeout)
		if err == nil {
			r := m.(*findcoordinator.Response)
			if r.ErrorCode == 0 {
				g.coordinator = net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port)))
				return g.coordinator, nil
			}
			err = kgo.Error(r.ErrorCode)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return "", fmt.Errorf("find the coordinator of group %s: %w", g.gc.ID, errors.Join(errs...))
}

func (g *Group) forgetCoordinator() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.coordinator = ""
}

// coordinated turns a code of the coordinator into an error, and forgets the coordinator if it is not one.
func (g *Group) coordinated(code int16) error {
	if code == 0 {
		return nil
	}
	switch e := kgo.Error(code); e {
	case kgo.GroupCoordinatorNotAvailable, kgo.NotCoordinatorForGroup:
		g.forgetCoordinator()
		return e
	case kgo.IllegalGeneration, kgo.UnknownMemberId, kgo.RebalanceInProgress, kgo.FencedInstanceID:
		return fmt.Errorf("%w: %w", ErrFenced, e)
	default:
		return e
	}
}

// Close leaves the group. It waits for the present generation to be released.
func (g *Group) Close() error { return g.cg.Close() }

// Generation is what this member owns until Done.
type Generation struct {
	ID       int32
	Member   string
	Assigned map[TP]Committed

	g       *Group
	done    chan struct{}
	release chan struct{}
}

// Done is closed when the generation is revoked: commit what is finished, then Release at once. All other members wait for it.
func (g *Generation) Done() <-chan struct{} { return g.done }

// Release lets the group go on. It must be called exactly once, whether or not Done was closed.
func (g *Generation) Release() {
	fault.Before(fault.KafkaRelease)
	close(g.release)
	fault.After(fault.KafkaRelease, nil)
}

// Commit writes offsets (the next one to read) with up to MetadataLimit bytes of metadata each, in one round trip.
// ErrFenced: the generation is over, and nothing of it was written. Any other error is transient: commit again at the next tick.
// Between Done and Release the generation still stands.
func (g *Generation) Commit(ctx context.Context, offsets map[TP]Committed) error {
	if len(offsets) == 0 {
		return nil
	}
	req := &offsetcommit.Request{GroupID: g.g.gc.ID, GenerationID: g.ID, MemberID: g.Member, RetentionTimeMs: -1}
	for topic, list := range byTopic(slices.Collect(maps.Keys(offsets))) {
		t := offsetcommit.RequestTopic{Name: topic}
		for _, p := range list {
			o := offsets[TP{topic, p}]
			t.Partitions = append(t.Partitions, offsetcommit.RequestPartition{
				PartitionIndex: p, CommittedOffset: o.Offset, CommittedMetadata: o.Metadata, CommittedLeaderEpoch: -1,
			})
		}
		req.Topics = append(req.Topics, t)
	}
	addr, err := g.g.findCoordinator(ctx)
	if err != nil {
		return err
	}
	if err := fault.Before(fault.KafkaCommit); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	m, err := g.g.c.ask(ctx, addr, req, requestTimeout)
	if err = fault.After(fault.KafkaCommit, err); err != nil {
		g.g.forgetCoordinator()
		return fmt.Errorf("commit: %w", err)
	}
	for _, t := range m.(*offsetcommit.Response).Topics {
		for _, p := range t.Partitions {
			if err := g.g.coordinated(p.ErrorCode); err != nil {
				return fmt.Errorf("commit %s/%d: %w", t.Name, p.PartitionIndex, err)
			}
		}
	}
	return nil
}
