package subscriptions

import "github.com/hookferry/hookferry/schemas"

// stands is what a reader knows of one key of the log, as far as the decision about its next record needs it. The zero value: nothing known.
type stands struct {
	version int64 // of the record that stands; 0: none
	// repairDue: the last record of the key is one that was rejected, so the log cleaner may leave nothing but that. Whoever knows better restates
	// what stands.
	repairDue bool
	// settled: no earlier record can contradict the one that stands. A reader that starts on a cleaned log may be shown a rejected record alone;
	// it takes it, as it must, but may not build or repair on it before it is settled.
	settled bool
}

// decision is what a record does to a key.
type decision struct {
	accept bool
	next   stands
}

// decide says whether a record of a key counts, given what stands for it. It is the whole of how several writers share a subscription: the log's
// order decides, and every reader comes to the same answer.
//
// In the complete log of a key a writer writes version n+1 only when n stands for it, and the first n+1 wins. So versions grow by ones, and a record
// whose version is not above what stands was written by somebody who had not seen it: it is rejected, and its writer is told.
//
// The log cleaner keeps only the last record of a key, which breaks "the first wins" in one way: the last may be a rejected one.
//
//	A1  B2  C2(rejected)   --cleaner-->   C2       a fresh reader takes C2, all others hold B2
//
// Therefore a rejected record at the end of a key's log is followed by a repair, a copy of what stands. A repair wins a tie (it corrects the reader that
// took C2) and loses to any higher version (which was written by somebody who knew more). Whoever reads the log to its end then holds the same, whatever
// the cleaner took: the last record of a key is either one that everybody accepts, or it is followed by one.
//
// A version more than one above what stands means that the cleaner took what lay between, while this reader was away for longer than the compaction lag
// (an hour, at least): it is taken like a first record.
//
// What is taken like a first record may be contradicted by one that the cleaner took, so it is not settled: who would build on C2 would lose B2. No record
// can settle it, not even a repair, which may have been written by somebody who was late himself. Time does: within the compaction lag the loser or the
// partition's owner has repaired what was to be repaired. young says that the record was appended less than that long ago. Since the cleaner takes nothing
// within the lag, what is young and not settled is only ever seen where the lag on the topic is shorter than the configured one.
func decide(s stands, version int64, repair, young bool) decision {
	switch {
	case version < 1: // no writer of ours writes that
		return decision{false, s.reject()}
	case s.version == 0:
		// The first version of a subscription has one writer, who made up its id; nothing can contradict it.
		return decision{true, stands{version: version, settled: version == 1 || !young}}
	case version > s.version:
		next := version == s.version+1 && s.settled
		return decision{true, stands{version: version, settled: next || !young}}
	case version == s.version && repair:
		return decision{true, stands{version: version, settled: s.settled || !young}}
	}
	return decision{false, s.reject()}
}

func (s stands) reject() stands {
	s.repairDue = s.version > 0
	return s
}

// repairOf is the record that restates what stands.
func repairOf(s *schemas.Subscription) schemas.Subscription {
	r := *s
	r.Repair = true
	return r
}
