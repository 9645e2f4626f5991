// Package audit checks the promise of a deployment from what lies in its topics: that every event which a subscription was owed in a stretch of time has
// reached an end that can be looked up, or still waits for one.
//
//	spans.go  pure: which way an event of a time belongs to, by the subscription's record and its catch-ups
//	books.go  pure: the three ledgers (what the log owes, what ended, what waits) and the bounds of what they can say
//	report.go pure: the ledgers compared
//	read.go   fills the ledgers from the topics, in the order that makes them comparable
//
// It shares no code with the router and the deliverer on purpose: it knows the topics, the records on them and the rules of docs/design.md, so a mistake
// in the pipeline is not repeated here.
//
// # The order of reading
//
// A deployment does not stand still while it is read. What is owed moves on in one direction only, and each step is durable before the one before it is
// given up: event, task, the records of the task in one tier after the other, an end. So the ledgers are read in that direction, and what moves meanwhile
// is met again further down:
//
//  1. the events, up to where their topics end;
//  2. how far the routers have committed, and how far catch-ups have come. An event below that has its tasks, durably, from before this moment;
//  3. what no deliverer has finished, from the offsets that their group has committed. A task that is not among it had ended before they were asked for;
//  4. what ended: attempts and dead letters, to the end that they have now.
//
// Whatever is found in none of the four did not move. It is gone.
package audit
