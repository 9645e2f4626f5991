// Package producer publishes change events of the booking platform: what an upstream service written in Go imports.
//
//	cfg := producer.DefaultConfig()
//	cfg.Brokers = []string{"kafka-1:9092", "kafka-2:9092"}
//	p, err := producer.New(ctx, cfg)
//	...
//	defer p.Close(ctx)
//	err = p.Publish(ctx, &schemas.BookingEvent{Meta: ..., Data: ...})
//
// Publish returns nil when every event is accepted: acknowledged by all in-sync replicas, from where on it will reach each subscription that wants
// it, or be accounted for. Otherwise it returns an *Error that tells for each of the other events which of two things is the case:
//
//   - rejected: it is surely not in the log. EventError.Retry says whether the event itself is at fault, or trying again may help.
//   - unknown: it may be in the log. Publish it again with the same event id: receivers get the same webhook-id and recognise the copy.
//
// A Producer is safe for use by many goroutines, and is made for it: what they publish while a request is under way travels together in the next
// one, without a delay for the one who comes alone. Events of one entity that are published one after the other, or in one call, stay in order.
//
//	Publish -> check, encode -> a feed per partition (a goroutine that lives while there is work) -> the Appender: one request per broker
//
// Other languages: docs/publishing.md.
package producer
