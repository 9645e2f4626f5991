package fault

// Point names a step. The names and sentences stand in Points, which nothing in an ordinary build refers to, so that the linker leaves it out. So a Point has
// no methods: the type lies in structures of the product, and the linker keeps the methods of whatever could be printed.
type Point uint8

const (
	RouterTake Point = iota
	RouterFirstCommit
	RouterCommit
	RouterLastCommit
	RouterTasks
	RouterUndecodable
	RouterDone
	RouterPark
	RerouteOrder
	RerouteTasks
	RerouteProgress
	ReplayOrder
	ReplayTasks
	ReplayProgress
	ReplayHand
	ReplayClose

	DelivererTake
	DelivererFirstCommit
	DelivererCommit
	DelivererLastCommit
	IntakeTake
	IntakeSeen
	IntakePlace
	IntakePark
	LaneHandBack
	LineHandBack
	LaneEnds
	LaneSend
	LaneCollect
	FlushLines
	FlushTiers
	FlushDead
	FlushAttempts
	FlushMarks
	MarksSettle
	MarksClaim
	FlushFinish
	KeeperDue
	KeeperSettled
	RedriveOrder
	RedriveLines
	RedriveTasks
	RedriveMarkers
	RedriveProgress
	RedriveEnd
	ClerkWrite
	LinesLoad
	LinesFence
	LinesClear

	SubscriptionWrite
	SubscriptionTwin
	SubscriptionOrders
	SubscriptionConfirm
	SubscriptionPaused
	SubscriptionRepair
	SubscriptionSweep
	TableApply

	RecentPublish

	KafkaProducer
	KafkaProduce
	KafkaCommitted
	KafkaCommit
	KafkaRelease

	count
)

// Info is what there is to know of a point.
type Info struct {
	Name  string
	File  string // where it stands, from the root of the module
	Moves string // what the step moves, from where to where
	Fails bool   // the step can fail, so an error can be injected
}

// Points is the list.
var Points = [count]Info{
	RouterTake:        {"router.take", "router/owned.go", "positions of source partitions: from the group's commits into this router's memory", false},
	RouterFirstCommit: {"router.first-commit", "router/owned.go", "where a partition begins: from memory to the group, before anything of it is routed", true},
	RouterCommit:      {"router.commit", "router/owned.go", "what is routed: from memory to the group, twice a second", true},
	RouterLastCommit:  {"router.last-commit", "router/owned.go", "what is routed: from memory to the group, before others may have the partitions", true},
	RouterTasks:       {"router.tasks", "router/pass.go", "the tasks of a flush: from memory to `retry`", true},
	RouterUndecodable: {"router.undecodable", "router/pass.go", "the undecodable records of a flush: from memory to `undecodable`", true},
	RouterDone:        {"router.done", "router/router.go", "a flushed batch: counted as done, so that the next commit names what lies behind it", false},
	RouterPark:        {"router.park", "router/router.go", "a batch that waits for a schema: dropped from memory, its partition set back to its first record", false},
	RerouteOrder:      {"reroute.order", "router/reroute.go", "the order of a reroute, or its end: from a command to `replays`", true},
	RerouteTasks:      {"reroute.tasks", "router/reroute.go", "the tasks of rerouted records: from memory to `retry`", true},
	RerouteProgress:   {"reroute.progress", "router/reroute.go", "how far a reroute has come: from memory to `progress`", true},
	ReplayOrder:       {"replay.order", "router/replayorder.go", "the order of a replay, or its new state: from a command to `replays`", true},
	ReplayTasks:       {"replay.tasks", "router/scan.go", "the tasks of a replay or catch-up: from memory to `replay`, or to `retry`", true},
	ReplayProgress:    {"replay.progress", "router/scan.go", "how far a replay or catch-up has come: from memory to `progress`", true},
	ReplayHand:        {"replay.hand", "router/handover.go", "an ordered subscription in a source partition: from its catch-up to the live path, by a commit that says so", true},
	ReplayClose:       {"replay.close", "router/replay.go", "that a replay or catch-up is over: from its progress to `replays`", true},

	DelivererTake:        {"deliverer.take", "deliverer/generation.go", "the partitions of a generation: from the group into this deliverer's memory, kept, begun or given up", false},
	DelivererFirstCommit: {"deliverer.first-commit", "deliverer/generation.go", "what is finished and under way: from memory to the group, as a generation begins; the lease rests on it", true},
	DelivererCommit:      {"deliverer.commit", "deliverer/generation.go", "what is finished and under way: from memory to the group, twice a second", true},
	DelivererLastCommit:  {"deliverer.last-commit", "deliverer/generation.go", "what is finished and under way: from memory to the group, before others may have the partitions", true},
	IntakeTake:           {"intake.take", "deliverer/intake.go", "fetched records of a partition: from `retry`, `replay` or a tier into items, and into the accounting", false},
	IntakeSeen:           {"intake.seen", "deliverer/intake.go", "a task whose try or end has a mark: counted as finished without a send", false},
	IntakePlace:          {"intake.place", "deliverer/intake.go", "items of a batch: into the lane of their subscription", false},
	IntakePark:           {"intake.park", "deliverer/intake.go", "a tier's partition whose head is not ready: left out of the fetches, its position set back", false},
	LaneHandBack:         {"lane.hand-back", "deliverer/lane.go", "a task that may not be sent for now: from the line to the collector, postponed", false},
	LineHandBack:         {"line.hand-back", "deliverer/gate.go", "a task that stands behind another of its entity: from the line to the collector, postponed", false},
	LaneEnds:             {"lane.ends", "deliverer/lane.go", "a task that ends without a send (deleted, paused, too large): from the sender to the collector", false},
	LaneSend:             {"lane.send", "deliverer/lane.go", "a task: to its receiver", false},
	LaneCollect:          {"lane.collect", "deliverer/lane.go", "the outcome of a try: from the sender to the collector", false},
	FlushLines:           {"flush.lines", "deliverer/outlet.go", "members of lines, and their ends: from memory to `lines`, before the tiers and the marks", true},
	FlushTiers:           {"flush.tiers", "deliverer/outlet.go", "tasks that go on: from memory to the tiers", true},
	FlushDead:            {"flush.dead", "deliverer/outlet.go", "dead letters: from memory to `dead`", true},
	FlushAttempts:        {"flush.attempts", "deliverer/outlet.go", "what was tried: from memory to `attempts`", true},
	FlushMarks:           {"flush.marks", "deliverer/dedup.go", "the marks of what is durable: from memory to Redis", true},
	MarksSettle:          {"marks.settle", "deliverer/dedup.go", "marks that Redis did not take at once: from memory to Redis", true},
	MarksClaim:           {"marks.claim", "deliverer/dedup.go", "what is in hand while Kafka takes no commit: from memory to Redis, for a successor to wait for", true},
	FlushFinish:          {"flush.finish", "deliverer/flush.go", "written and marked tasks: counted as finished, so that the next commit names what lies behind them", false},
	KeeperDue:            {"keeper.due", "deliverer/keeper.go", "tasks whose time has come: from the clock into their lanes", false},
	KeeperSettled:        {"keeper.settled", "deliverer/keeper.go", "tasks that the owner before was sending: looked up again, then ended, tried or waited for", false},
	RedriveOrder:         {"redrive.order", "deliverer/inspect.go", "the order of a redrive, or its end: from a command to `replays`", true},
	RedriveLines:         {"redrive.lines", "deliverer/redrive.go", "letters of a pause whose subscription keeps order: as members, from memory to `lines`, before they go to the smallest tier", true},
	RedriveTasks:         {"redrive.tasks", "deliverer/redrive.go", "dead letters as tasks of a new round: from `dead` to the smallest tier", true},
	RedriveMarkers:       {"redrive.markers", "deliverer/redrive.go", "which letters are taken out: from memory to `dead`, behind them", true},
	RedriveProgress:      {"redrive.progress", "deliverer/redrive.go", "how far a redrive has come: from memory to `progress`", true},
	RedriveEnd:           {"redrive.end", "deliverer/resumed.go", "where the redrive after a pause ends: from memory to `dead`, as a marker", true},
	ClerkWrite:           {"clerk.write", "deliverer/clerk.go", "what the deliverer learned of a subscription (failing, disabled): from memory to its record", true},
	LinesLoad:            {"lines.load", "deliverer/lines.go", "the members of a partition that was taken over: from `lines` into memory, before its tasks are read", true},
	LinesFence:           {"lines.fence", "deliverer/lines.go", "the fence of a new owner: from memory to `lines`, so that members which an owner before writes late are not believed", true},
	LinesClear:           {"lines.clear", "deliverer/lines.go", "members that nobody believes, or for which nothing comes up: their tombstones, from memory to `lines`", true},

	SubscriptionWrite:   {"subscription.write", "internal/subscriptions/writer.go", "a new version of a subscription: from a writer to `subscriptions`", true},
	SubscriptionTwin:    {"subscription.twin", "internal/subscriptions/writer.go", "a new subscription: looked at once more for a twin of its name, and withdrawn if there is one", true},
	SubscriptionOrders:  {"subscription.orders", "internal/subscriptions/orders.go", "the orders that a new cut \"live\" needs, catch-up and redrive: from a writer to `replays`, before the record with the cut", true},
	SubscriptionConfirm: {"subscription.confirm", "internal/subscriptions/orders.go", "where a catch-up ends, once its cut is acknowledged: from a writer into its order in `replays`", true},
	SubscriptionPaused:  {"subscription.paused", "internal/subscriptions/orders.go", "where the topics ended when a pause began: from a writer into the order of its redrive in `replays`", true},
	SubscriptionRepair:  {"subscription.repair", "internal/subscriptions/writer.go", "what stands, after a lost race: restated behind the refused record in `subscriptions`", true},
	SubscriptionSweep:   {"subscription.sweep", "internal/subscriptions/sweep.go", "repairs that no writer made, and tombstones: from a partition's owner to `subscriptions`", true},
	TableApply:          {"table.apply", "internal/subscriptions/table.go", "fetched records of `subscriptions`: into the table that routers match against and deliverers send by", false},

	RecentPublish: {"recent.publish", "recent/snapshot.go", "a snapshot that was asked for: from the model to its topic of events", true},

	KafkaProducer:  {"kafka.producer", "internal/kafka/append.go", "a producer id: from the broker into the appender", true},
	KafkaProduce:   {"kafka.produce", "internal/kafka/append.go", "the batches of one produce request: from the appender to the log of their leader", true},
	KafkaCommitted: {"kafka.committed", "internal/kafka/group.go", "committed offsets and their metadata: from the coordinator into a new generation", true},
	KafkaCommit:    {"kafka.commit", "internal/kafka/group.go", "offsets and their metadata: from a member to the coordinator", true},
	KafkaRelease:   {"kafka.release", "internal/kafka/group.go", "the partitions of a generation: given back, so that the group goes on", false},
}

// Named finds a point by its name.
func Named(name string) (Point, bool) {
	for i := range Points {
		if Points[i].Name == name {
			return Point(i), true
		}
	}
	return 0, false
}

// Cell is one place of the matrix: a point, a side, and what happens there.
type Cell struct {
	Point Point
	Side  Side
	Kind  Kind
}

// String is the cell as the beginning of an order.
func (c Cell) String() string {
	return Points[c.Point].Name + ":" + string(c.Side) + ":" + string(c.Kind)
}

// Matrix is every cell there is: each point, before and after its step, killed and stalled, and failed where the step can fail.
func Matrix() []Cell {
	var out []Cell
	for i := range Points {
		for _, side := range []Side{SideBefore, SideAfter} {
			for _, kind := range []Kind{Kill, Stall, Fail} {
				if kind != Fail || Points[i].Fails {
					out = append(out, Cell{Point(i), side, kind})
				}
			}
		}
	}
	return out
}
