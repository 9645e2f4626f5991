// Package sandbox is a world in memory: a Kafka broker, a Redis, receivers of webhooks that behave as their URL says, and realistic events. `hookferry
// dev`, `hookferry demo` and the tests live in it.
//
//	broker.go    franz-go's kfake: a broker that speaks Kafka's protocol
//	redis.go     miniredis
//	receiver.go  receivers, with a ledger of everything that came
//	sample.go    events of all 26 types
//
// Everything runs in two ways: over real TCP on free ports of 127.0.0.1, or Virtual, over pipes in memory, so that a testing/synctest bubble can hold
// the whole pipeline and hours pass in milliseconds. Virtual parts have a Dial, which goes where a room takes its dialer; nothing else differs.
//
// Nothing here is a mock: real bytes go through real clients. What the stand-ins say about faults is a hint; real servers decide.
package sandbox
