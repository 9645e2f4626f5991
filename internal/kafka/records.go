package kafka

import (
	"encoding/binary"
	"hash/crc32"
	"time"
)

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
	// LeftOut is the size of a record that was too large to be read, in bytes; 0: it was read. Then Value and Headers are nil, and Key is if it was long.
	// A broker takes such a record only within a compressed batch.
	LeftOut int64
}

// Batch is what one fetch brought for one partition.
type Batch struct {
	TP
	Records       []Record // ascending offsets, perhaps with gaps
	Next          int64    // where reading goes on: at least the last record's offset + 1, more where the end of it was compacted away
	HighWatermark int64    // of the partition when the broker answered
	LogStart      int64
	Bytes         int64 // that the records are parts of, as fetched and as unpacked
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

// batchLimit is the most bytes of records in one batch: below the broker's default of 1,048,588, which counts the batch's head too.
// A single larger record is a batch of its own.
const batchLimit = 900_000

// batchHead is the room before the records: 4 bytes of length, which is not part of the batch but stands before it in a request, and
// the 61 bytes of a batch's head.
const batchHead = 4 + 61

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Records are records under construction, in order per partition. The zero value is ready; Reset keeps its buffers. Not safe for concurrent use.
type Records struct {
	index map[TP]int // of slots in use
	slots []slot     // those beyond len(index) keep buffers for reuse
	last  int        // the slot that was added to last: neighbours often share it
	n     int
	size  int
}

// slot holds the batches of one partition.
type slot struct {
	tp      TP
	batches []raw
}

// raw is one batch without its head.
type raw struct {
	b []byte // batchHead bytes of room, then records
	n int
}

// slotOf finds or makes the slot of a partition.
func (r *Records) slotOf(tp TP) *slot {
	used := len(r.index)
	if used > 0 && r.slots[r.last].tp == tp {
		return &r.slots[r.last]
	}
	i, ok := r.index[tp]
	if !ok {
		if r.index == nil {
			r.index = map[TP]int{}
		}
		i = used
		if i == len(r.slots) {
			r.slots = append(r.slots, slot{})
		}
		r.slots[i].tp = tp
		r.slots[i].batches = r.slots[i].batches[:0]
		r.index[tp] = i
	}
	r.last = i
	return &r.slots[i]
}

// room gives the batch that has room for a record of so many bytes.
func (s *slot) room(size int) *raw {
	if k := len(s.batches); k > 0 {
		if b := &s.batches[k-1]; len(b.b)-batchHead+size <= batchLimit {
			return b
		}
	}
	if k := len(s.batches); k < cap(s.batches) {
		s.batches = s.batches[:k+1]
	} else {
		s.batches = append(s.batches, raw{})
	}
	b := &s.batches[len(s.batches)-1]
	if cap(b.b) < batchHead {
		b.b = make([]byte, batchHead, 1024)
	}
	b.b, b.n = b.b[:batchHead], 0
	return b
}

// varintLen is the length of v as a zigzag varint.
func varintLen(v int64) int {
	u := uint64(v<<1) ^ uint64(v>>63)
	n := 1
	for u >= 0x80 {
		u >>= 7
		n++
	}
	return n
}

// Add appends a record. The parts of its value are concatenated; everything is copied. A nil key is no key.
func (r *Records) Add(tp TP, key []byte, headers []Header, value ...[]byte) {
	n := 0
	for _, v := range value {
		n += len(v)
	}
	b := r.begin(tp, key, headers, n)
	for _, v := range value {
		b.b = append(b.b, v...)
	}
	r.end(b, headers)
}

// AddTombstone appends a record without a value: compaction will drop the key.
func (r *Records) AddTombstone(tp TP, key []byte, headers ...Header) {
	r.end(r.begin(tp, key, headers, -1), headers)
}

// begin writes a record up to its value, whose length is valueLen (-1: a tombstone).
//
//	varint length | 0 | varint time delta | varint offset delta | varint key length (-1 none), key | varint value length, value | varint headers
func (r *Records) begin(tp TP, key []byte, headers []Header, valueLen int) *raw {
	keyLen := len(key)
	if key == nil {
		keyLen = -1
	}
	size := 1 + 1 + varintLen(int64(keyLen)) + len(key) + varintLen(int64(valueLen)) + max(0, valueLen) + varintLen(int64(len(headers)))
	for _, h := range headers {
		size += varintLen(int64(len(h.Key))) + len(h.Key) + varintLen(int64(len(h.Value))) + len(h.Value)
	}
	b := r.slotOf(tp).room(size + 2*binary.MaxVarintLen32)
	size += varintLen(int64(b.n))
	d := binary.AppendVarint(b.b, int64(size))
	d = append(d, 0, 0) // attributes, time delta: a batch has one time
	d = binary.AppendVarint(d, int64(b.n))
	d = binary.AppendVarint(d, int64(keyLen))
	d = append(d, key...)
	b.b = binary.AppendVarint(d, int64(valueLen))
	b.n++
	r.n++
	r.size += varintLen(int64(size)) + size
	return b
}

func (r *Records) end(b *raw, headers []Header) {
	d := binary.AppendVarint(b.b, int64(len(headers)))
	for _, h := range headers {
		d = binary.AppendVarint(d, int64(len(h.Key)))
		d = append(d, h.Key...)
		d = binary.AppendVarint(d, int64(len(h.Value)))
		d = append(d, h.Value...)
	}
	b.b = d
}

// Len is the number of records.
func (r *Records) Len() int { return r.n }

// Size is their size on the wire before compression, in bytes.
func (r *Records) Size() int { return r.size }

// keepBuffer is the largest buffer that Reset keeps: one huge record must not hold its memory for ever.
const keepBuffer = 2 << 20

// Reset forgets the records and keeps the buffers.
func (r *Records) Reset() {
	for i := range r.slots[:len(r.index)] {
		s := &r.slots[i]
		for j := range s.batches {
			if cap(s.batches[j].b) > keepBuffer {
				s.batches[j].b = nil
			}
		}
		s.batches = s.batches[:0]
	}
	clear(r.index)
	r.last, r.n, r.size = 0, 0, 0
}

// stamp fills in the head of a batch (behind 4 bytes of length): from then on its bytes must not change, or the broker could not
// recognize it when it comes again.
func stamp(b []byte, n int, codec Codec, producer int64, epoch int16, sequence int32, now time.Time) {
	be := binary.BigEndian
	be.PutUint32(b, uint32(len(b)-4))
	h := b[4:]
	ms := uint64(now.UnixMilli())
	be.PutUint64(h, 0) // base offset: the broker's to set
	be.PutUint32(h[8:], uint32(len(h)-12))
	be.PutUint32(h[12:], ^uint32(0))    // partition leader epoch: the broker's to set
	h[16] = 2                           // magic
	be.PutUint16(h[21:], uint16(codec)) // attributes
	be.PutUint32(h[23:], uint32(n-1))   // last offset delta
	be.PutUint64(h[27:], ms)            // first timestamp
	be.PutUint64(h[35:], ms)            // max timestamp
	be.PutUint64(h[43:], uint64(producer))
	be.PutUint16(h[51:], uint16(epoch))
	be.PutUint32(h[53:], uint32(sequence))
	be.PutUint32(h[57:], uint32(n))
	be.PutUint32(h[17:], crc32.Checksum(h[21:], castagnoli))
}

// nextSequence is the sequence behind a batch of n records; it wraps at 2^31 as the broker's does.
func nextSequence(seq int32, n int) int32 {
	return int32((int64(seq) + int64(n)) & 0x7fffffff)
}
