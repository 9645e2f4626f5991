// Package subscriptions holds the live table of all subscriptions and is the only writer of the topic `subscriptions`.
//
//	decide.go  pure: which record of a subscription stands, from the log's order alone
//	table.go   reads the whole topic and follows it; says how old its knowledge is
//	index.go   who wants an event: by company and event type
//	pattern.go the grammar of event patterns
//	live.go    one subscription as it stands, with its secrets opened on demand
//	draft.go   what is refused, and under which code
//	writer.go  create, update, delete: optimistic, by version
//	spans.go   pause, disable, resume: the cuts, and the orders written before them
//	orders.go  the orders in `replays`
//	gap.go     what retention has taken of a span
//	sweep.go   repairs and tombstones, done by the owner of a partition
//
// Everybody reads the topic through a Table of his own; there is no other source of truth and no cache beside it. A record is a whole subscription,
// keyed by its id, and its version decides whether it counts (decide.go).
package subscriptions
