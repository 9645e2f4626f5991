package kafka

// TP is a partition of a topic.
type TP struct {
	Topic     string
	Partition int32
}

// Header is a header of a record. An empty value and none are the same to Kafka's readers: do not tell them apart.
type Header struct {
	Key   string
	Value []byte
}

// Record is what was read. Key, Value and Headers are slices of the answer it came in, which is never written to again: they may be
// kept, but a kept one keeps the whole answer (up to FetchConfig.MaxBytes) in memory.
type Record struct {
	Offset  int64
	Time    int64 // ms: append time where the broker stamps it, else the producer's
	Key     []byte
	Value   []byte // nil: a tombstone
	Headers []Header
}

// Batch is what one fetch brought for one partition.
type Batch struct {
	TP
	Records       []Record // ascending offsets, perhaps with gaps
	Next          int64    // where reading goes on: at least the last record's offset + 1, more where the end of it was compacted away
	HighWatermark int64    // of the partition when the broker answered
	LogStart      int64
	Bytes         int // of keys and values, uncompressed
}

// Codec is a compression of record batches.
type Codec int8

// The codecs, by their numbers on the wire.
const (
	None Codec = iota
	Gzip
	Snappy
	Lz4
	Zstd
)
