// Package kafka is how Hookferry speaks to Kafka: who owns which partition, what is read, what is written, and which topics there are.
// It holds concrete types and nothing more. There is no interface over the broker: tests run against a broker in memory
// (internal/sandbox) or a real one, and what they replace is how to dial.
//
//	Client    one per process: configuration, metadata (which broker leads what), a small pool of connections
//	Appender  writes: idempotent record batches, acks=all, one request for all partitions of a leader
//	Fetcher   reads: one loop per broker, one request for all its partitions, our own decoder because only it knows append times
//	Group     owns: kafka-go's ConsumerGroup with a balancer that keeps partition p of co-partitioned topics together; fenced commits
//	Names     the topics of a deployment; CreateTopics makes them, CheckTopics says what is missing
//	Registry  the schema registry
//
// kafka-go carries the traffic: its group client, its requests and answers (protocol/*), its codecs and its SASL mechanisms.
// Three things are ours because kafka-go's are not fit: the record batch encoder (its Writer cannot retry without duplicates),
// the fetch decoder (its readers report the producer's time even where the broker stamped its own), and the routing of requests
// (its Transport sends one ListOffsets per partition, asks FindCoordinator before each commit, and learns of a moved leader late).
//
// What must stay true:
//
//   - A batch whose fate is unknown is sent again byte by byte, with the same producer id and sequence, until the broker says what
//     became of it; a batch with another content never takes a sequence that may have been used.
//   - A partition has one request in flight, so its records keep their order through every retry.
//   - A buffer that records were handed out of is never written to again.
//   - A commit names the generation and the member: a former owner's is refused.
//   - Every goroutine that is started here ends when the Client, Fetcher or Group it belongs to ends.
package kafka
