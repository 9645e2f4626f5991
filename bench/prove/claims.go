package main

// commands, in the order in which they run: the quick ones first, so that what is plainly broken says so early.
var commands = []command{
	{name: "make demo", argv: []string{"go", "run", "./cmd/hookferry", "demo"}},
	{name: "make test-kafka", argv: []string{".ci/test-kafka", "-v"}},
	{name: "make mutants", argv: []string{"go", "run", "./bench/mutants"}, short: []string{"go", "run", "./bench/mutants"}},
	{name: "make faults", argv: []string{"go", "run", "./bench/faults", "-middle"}, short: []string{"go", "run", "./bench/faults", "-short"}},
	{name: "make simulation", argv: []string{"go", "run", "./bench/simulation", "-seeds", "500", "-for", "7m"},
		short: []string{"go", "run", "./bench/simulation", "-seeds", "500", "-for", "6m"}},
	{name: "make bench", argv: []string{"go", "run", "./bench"}},
}

// The promises, word for word as the README's table makes them (a test compares).
const (
	everyEvent   = "Every accepted event reaches every subscription that wants it, or an end that can be looked up"
	noDuplicates = "No duplicates without a fault; after one, only what was under way, always with the same `webhook-id`"
	signed       = "Every request is signed, and verifies with libraries that were not written here"
	sameBytes    = "The body is byte for byte the same on every try"
	replicas     = "Replicas come, go and die: a join moves no healthy receiver's p99 beyond 1.2 times, a restart holds nothing up for over two seconds, a death not beyond the session and five seconds"
	apart        = "A receiver that hangs delays no other; two companies never see each other's events"
	exactStart   = "From the moment `subscriptions create` returns, no event is missed; none from before is sent"
	schedule     = "The schedule of ten tries over 75 h 35 m holds across restarts and without Redis"
	spans        = "A subscription can be paused, resumed and backfilled: nothing is lost, nothing is sent twice; a stretch of the log can be replayed to it"
	ordered      = "With `--order entity`, no event of an entity is sent before the one before it is delivered or dead"
	checked      = "What was owed to a subscription and what came of it can be checked, for any stretch of time"
	undecodable  = "What cannot be decoded is kept byte for byte and can be sent through again; of what is over 1,120 KiB in a compressed batch, place and size are kept"
	egress       = "Addresses inside your network are not reached, whatever a URL resolves to"
	fast         = "It is fast: at least half the deliveries of a bare net/http loop of signed POSTs in the same run, at less than three times its CPU, broker and Redis included"
)

// claims, in the order of the README's table; a promise may have more than one.
var claims = []claim{
	{promise: everyEvent, command: "make demo", what: "lost", figure: `^lost (\d+)`, goal: "= 0"},
	{promise: everyEvent, command: "make faults", what: "lost in each scenario", figure: `; owed \d+, delivered \d+, lost (\d+)`, goal: "= 0"},
	{promise: everyEvent, command: "make faults", what: "lost in all", figure: `^total .* over \d+ deliveries, lost (\d+),`, goal: "= 0"},
	{promise: everyEvent, command: "make faults", what: "kills", figure: `^total (\d+) kills`, goal: ">= 60"},
	{promise: everyEvent, command: "make faults", what: "deliveries beside kills", figure: `^total .* kills \(.*\) over (\d+) deliveries`, goal: ">= 100000"},
	{promise: everyEvent, command: "make faults", what: "seconds that anything waited after healing", figure: `after healing: ([\d.]+) s`, goal: "<= 10"},
	{promise: everyEvent, command: "make simulation", what: "violations", figure: `(\d+) violations in \d+ seeds`, goal: "= 0"},
	{promise: everyEvent, command: "make mutants", what: "mutants red", figure: `^(\d+) of \d+ red`, goal: ">= 30"},
	{promise: everyEvent, command: "make faults", whole: true, what: "% of the throughput without Redis", figure: `redis-gone: .* without Redis \((\d+) %\)`, goal: ">= 70"},
	{promise: noDuplicates, command: "make demo", what: "duplicates", figure: `^duplicates (\d+)`, goal: "= 0"},
	{promise: noDuplicates, command: "make faults", what: "unexplained", figure: `; duplicates \d+, unexplained (\d+)`, goal: "= 0"},
	{promise: noDuplicates, command: "make faults", whole: true, what: "without a fault", figure: `^ok    no-fault .*; duplicates (\d+),`, goal: "= 0"},
	{promise: noDuplicates, command: "make faults", what: "% beside kills", figure: `^total .*, duplicates ([\d.]+) % under load`, goal: "<= 0.5"},
	{promise: signed, command: "make test-kafka", tests: []string{"TestAForeignPublisherAndAForeignReceiver"}},
	{promise: sameBytes, command: "make test-kafka", tests: []string{"TestEveryTryOfATaskHasTheSameIDAndTheSameBytes", "TestAllTypesInAllFormatsArriveSignedAndExact"}},
	{promise: replicas, command: "make faults", whole: true, what: "p99 at a join, worst receiver, x", figure: `of the receiver that it moved most .*: ([\d.]+) x`, goal: "<= 1.2"},
	{promise: replicas, command: "make faults", whole: true, what: "seconds for a restart", figure: `rounds: .* longest wait from due to arrival ([\d.]+) s \(goal`, goal: "<= 2"},
	{promise: replicas, command: "make faults", whole: true, what: "seconds after a kill", figure: `arrival after the kill: ([\d.]+) s`, goal: "<= 11"},
	{promise: apart, command: "make test-kafka", tests: []string{"TestOneHangingReceiverDelaysNoOther", "TestTwoCompaniesNeverSeeEachOthersEvents"}},
	{promise: apart, command: "make bench", what: "p99 beside hanging ones, x", figure: `^2 hang .*: ([\d.]+) x \(goal`, goal: "<= 1.2"},
	{promise: exactStart, command: "make test-kafka", tests: []string{"TestSubscriptionIsLiveExactlyFromItsCut"}},
	{promise: schedule, command: "make test-kafka", tests: []string{"TestTheWholeScheduleInVirtualTime"}},
	{promise: spans, command: "make test-kafka", tests: []string{"TestEveryEventIsRoutedByItsSpanOnly", "TestAReplayRoutesItsRangeAgain"}},
	{promise: spans, command: "make faults", whole: true, what: "missing of pauses, backfills, replays and redrives", figure: `spans: .*; missing (\d+)`, goal: "= 0"},
	{promise: spans, command: "make faults", whole: true, what: "of these sent twice unexplained, early, or out of order", figure: `spans: .* wrong (\d+)`, goal: "= 0"},
	{promise: spans, command: "make bench", what: "missing of a replay, router killed in the middle too", figure: `^replay .*; missing (\d+)`, goal: "= 0"},
	{promise: spans, command: "make bench", what: "p99 of live beside a replay, x", figure: `^replay .*: ([\d.]+) x \(goal`, goal: "<= 1.1", missed: "docs/performance.md says how far and why"},
	{promise: ordered, command: "make test-kafka", tests: []string{"TestNobodyOvertakesInTheWorst"}},
	{promise: ordered, command: "make bench", what: "p99 of other entities while some fail, x", figure: `^order .*: ([\d.]+) x \(goal`, goal: "<= 1.2"},
	{promise: checked, command: "make test-kafka", tests: []string{"TestVerifyFindsEachPlantedGapAndNoneWhereThereIsNone", "TestVerifyKnowsBackfillsPausesAndReplays"}},
	{promise: checked, command: "make bench", what: "missing in the whole log, says verify", figure: `^verify .* missing (\d+)`, goal: "= 0"},
	{promise: undecodable, command: "make test-kafka", tests: []string{"TestUndecodableRecordIsKeptByteIdenticalAndTheNextGoodOneGoesOut",
		"TestRerouteSendsUndecodableThroughAgainUnderTheSameIDs"}},
	{promise: undecodable, command: "make faults", what: "poison not as its table says", figure: `kinds, (\d+) not as the table says`, goal: "= 0"},
	{promise: egress, command: "make test-kafka", tests: []string{"TestEveryRangeIsRefusedFromItsFirstToItsLastAddressAndNoFurther", "TestOneForbiddenAnswerRefusesAll", "TestControlHookRefusesWhatTheKernelIsAboutToUse"}},
	{promise: fast, command: "make bench", what: "fan-out 1, % of a bare loop", figure: `^fan-out 1  .* = (\d+) % of the bare loop`, goal: ">= 50"},
	{promise: fast, command: "make bench", what: "fan-out 10, % of a bare loop", figure: `^fan-out 10 .* = (\d+) % of the bare loop`, goal: ">= 60"},
	{promise: fast, command: "make bench", what: "CPU, x", figure: `= ([\d.]+) x the bare client`, goal: "<= 3"},
	{promise: fast, command: "make bench", what: "p50 at 100/s, ms", figure: `^latency +100/s +p50 ([\d.]+) ms`, goal: "<= 2", missed: "docs/performance.md says how far and why"},
	{promise: fast, command: "make bench", what: "p99 at 100/s, ms", figure: `^latency +100/s +p50 [\d.]+ ms +p99 ([\d.]+) ms`, goal: "<= 6", missed: "docs/performance.md says how far and why"},
}
