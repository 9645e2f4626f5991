// Package schemas is the ground that all rooms stand on: what lies on the topics, and how it is read and written. It imports nothing of ours.
//
// # Two kinds of records
//
// Events are other people's: any client may have written them, with any version of their schema and any bytes. They are read by the schema that their
// frame names (Unframe; CompiledIn or a registry gives it), in one of two ways that never build a tree of values:
//
//	EventReader   finds the fields of meta by name and gives slices of the body; then data, previous, changes as JSON
//	AppendJSON    the transcoder beneath it: Avro binary in, plain JSON out
//
// Both are strict, since what they accept is sent to receivers: every byte is checked, and MaxInput, MaxOutput, MaxElements and MaxDepth bound what
// an input may cost. What is wrong is a *DataError with a reason from a short list.
//
// Our own records (Task, Attempt, Dead, Subscription, Replay, Progress) have codecs laid by hand, in the file of each, beside its .avsc. A test holds
// both together by way of goavro: what goavro writes by the .avsc is byte for byte what Append writes.
//
// # Files
//
//	task.go attempt.go dead.go subscription.go replay.go progress.go   our records; wire.go has the primitives of their codecs
//	ids.go                                                             task ids and webhook ids
//	catalogue.go event.go events_gen.go                                the 26 event types, and their typed records for publishers
//	recent.go                                                          the 27th, which is ours: who it is addressed to, and a line of it
//	schema.go compile.go canonical.go                                  a schema's text to nodes, and its fingerprint
//	transcode.go text.go                                               binary to JSON, and skipping
//	encode.go encode_values.go                                         JSON to binary, for people: every bad field is named at once
//	project.go                                                         EventReader
//	frame.go errors.go                                                 framings; reasons
//
// # What must stay true
//
//   - The ids never change: an id that a new release computes otherwise is sent twice.
//   - Golden bytes in testdata are never rewritten. To change a record of ours, keep the old .avsc and frame as the version before, decode both for one
//     release, and write the new one from the release after: a reader that meets what it does not know says "upgrade" (NewerSchemaError) and stops.
//   - In a Task the body is last, so that the router builds one body and shares it (AppendTaskHead); in a Dead the task is last, for the same reason.
//   - Skip accepts what AppendJSON accepts, and walks blocks whose byte size is given: a size that is believed unchecked would let one event
//     show two contents.
//   - Fingerprints are Avro's, in which {"type":"long"} is "long". goavro's differ wherever a logical type stands.
package schemas
