package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unsafe"

	"github.com/segmentio/kafka-go/compress"
)

// fetchVersion is the version of Fetch that we speak: the first that can be decoded without tagged fields and that every broker from
// 2.3 to 4.x knows.
const fetchVersion = 11

// maxUnpacked bounds what the compressed batches of one answer may unpack to, in bytes: a megabyte of them may hold gigabytes, and that must neither take
// all memory nor stop a partition. What goes over it is read by further requests. A batch over maxBatch, or with so many records that they would take
// more than it, is read piece by piece (stream.go). Headers count by the memory that they take: an empty one has two bytes in a batch.
const (
	maxUnpacked = 64 << 20
	maxBatch    = 16 << 20
	recordCost  = 128     // of a Record in memory
	headerCost  = 48      // of a Header
	mostHeaders = 1 << 18 // of a record: one that has more is taken without its bytes, as one that is too large
)

// errBroken is the root of all errors about bytes that are not what the protocol says.
var errBroken = errors.New("kafka: broken answer")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errBroken, fmt.Sprintf(format, args...))
}

// wire reads big-endian fields. After the first field that is not there, bad is set and all others are zero.
type wire struct {
	b   []byte
	bad bool
}

func (w *wire) take(n int) []byte {
	if n < 0 || n > len(w.b) {
		w.bad, w.b = true, nil
		return nil
	}
	out := w.b[:n:n]
	w.b = w.b[n:]
	return out
}

func (w *wire) i16() int16 {
	if b := w.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (w *wire) i32() int32 {
	if b := w.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (w *wire) i64() int64 {
	if b := w.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// fetched is what an answer says of one partition.
type fetched struct {
	topic         string
	partition     int32
	code          int16
	highWatermark int64
	logStart      int64
	records       []byte // batches, the last perhaps cut
}

// decodeFetch calls each for every partition of a Fetch v11 answer (without its length; the correlation id is its first field).
// topic returns the name that stands for the bytes, so that names are not allocated anew.
func decodeFetch(b []byte, topic func([]byte) string, each func(fetched)) (session int32, code int16, err error) {
	w := wire{b: b}
	w.i32() // correlation id
	w.i32() // throttle time
	code = w.i16()
	session = w.i32()
	for t := w.i32(); t > 0 && !w.bad; t-- {
		name := topic(w.take(int(w.i16())))
		for n := w.i32(); n > 0 && !w.bad; n-- {
			f := fetched{topic: name, partition: w.i32(), code: w.i16(), highWatermark: w.i64()}
			w.i64() // last stable offset
			f.logStart = w.i64()
			if aborted := w.i32(); aborted > 0 {
				w.take(int(aborted) * 16)
			}
			w.i32() // preferred read replica
			if size := w.i32(); size > 0 {
				f.records = w.take(int(size))
			}
			if !w.bad {
				each(f)
			}
		}
	}
	if w.bad {
		return session, code, broken("it ends too early")
	}
	return session, code, nil
}

const batchBytes = 61 // of a batch's head

// decodeBatches decodes the record batches of one partition, from the asked offset on, into out.
// It returns the offset behind the last whole batch, or from if there is none, and cut = true if b ends within a batch.
// Records are slices of b, or of what it was unpacked to.
func decodeBatches(b []byte, from int64, out []Record) (records []Record, next int64, cut bool, err error) {
	room := maxUnpacked
	return decodeWithin(b, from, out, &room)
}

// decodeWithin is decodeBatches for one partition of several that share an answer: room is how much may still be unpacked. At 0 it ends before the next
// batch, as if there were no more.
func decodeWithin(b []byte, from int64, out []Record, room *int) (records []Record, next int64, cut bool, err error) {
	next = from
	if total := countRecords(b); cap(out)-len(out) < total {
		out = append(make([]Record, 0, len(out)+total), out...)
	}
	be := binary.BigEndian
	for len(b) > 0 {
		if len(b) < batchBytes {
			return out, next, true, nil
		}
		length := int64(be.Uint32(b[8:])) + 12
		if length < batchBytes {
			return out, next, false, broken("a batch of %d bytes", length)
		}
		if b[16] != 2 {
			return out, next, false, broken("a batch of message format %d; only 2 is known (Kafka 0.11 and later write it)", b[16])
		}
		if length > int64(len(b)) {
			return out, next, true, nil
		}
		h := b[:length:length]
		b = b[length:]
		if crc32.Checksum(h[21:], castagnoli) != be.Uint32(h[17:]) {
			return out, next, false, broken("the checksum of the batch at offset %d is wrong", int64(be.Uint64(h)))
		}
		base, lastDelta := int64(be.Uint64(h)), int64(int32(be.Uint32(h[23:])))
		if base < 0 || lastDelta < 0 {
			return out, next, false, broken("a batch at offset %d with last delta %d", base, lastDelta)
		}
		end := base + lastDelta + 1
		if end <= from { // wholly before the asked offset
			continue
		}
		if *room <= 0 {
			return out, next, false, nil
		}
		if out, end, err = decodeBatch(h, base, end, from, out, room); err != nil {
			return out, next, false, err
		}
		next = max(next, end)
		if end < base+lastDelta+1 {
			return out, next, false, nil // the rest of this batch is for the next request
		}
	}
	return out, next, false, nil
}

// countRecords is how many records the heads of the batches promise, bounded by what their bytes could hold.
func countRecords(b []byte) int {
	total := 0
	for len(b) >= batchBytes {
		length := int64(binary.BigEndian.Uint32(b[8:])) + 12
		if length < batchBytes || length > int64(len(b)) {
			break
		}
		n := int64(int32(binary.BigEndian.Uint32(b[57:])))
		if binary.BigEndian.Uint16(b[21:])&7 == 0 {
			n = min(n, length/minRecord+1)
		} else {
			n = min(n, length) // a guess that cannot be abused; append grows it where a batch packs better
		}
		total += int(max(0, n))
		b = b[length:]
	}
	return total
}

// minRecord is the size of the smallest record: length, attributes, time delta, offset delta, key and value length, headers.
const minRecord = 7

const (
	attrCodec      = 0x07
	attrAppendTime = 0x08
	attrControl    = 0x20
)

// decodeBatch decodes one whole batch whose checksum is right, and returns the offset behind what it decoded: end, or less if it unpacks to too much.
func decodeBatch(h []byte, base, end, from int64, out []Record, room *int) ([]Record, int64, error) {
	be := binary.BigEndian
	attr := be.Uint16(h[21:])
	if attr&attrControl != 0 { // a transaction's commit or abort marker: not for readers
		return out, end, nil
	}
	first, largest := int64(be.Uint64(h[27:])), int64(be.Uint64(h[35:]))
	n := int64(int32(be.Uint32(h[57:])))
	d := h[batchBytes:]
	if n == 0 { // compaction keeps the head of an emptied batch
		return out, end, nil
	}
	if codec := attr & attrCodec; codec != 0 {
		var err error
		packed := d
		if n > maxBatch/recordCost {
			err = errTooMuch
		} else {
			d, err = unpack(Codec(codec), packed)
		}
		if errors.Is(err, errTooMuch) {
			*room = 0
			return decodeStream(Codec(codec), packed, h, base, end, from, out)
		} else if err != nil {
			return out, end, fmt.Errorf("batch at offset %d: %w", base, err)
		}
	}
	if attr&attrCodec != 0 {
		*room -= len(d)
	}
	if n < 0 || n > int64(len(d))/minRecord {
		return out, end, broken("%d records in %d bytes at offset %d", n, len(d), base)
	}
	var headers []Header // shared by the batch's records: they never change
	before, heads := len(out), 0
	for ; n > 0; n-- {
		var rec Record
		size, rest, ok := varint(d)
		if !ok || size < 0 || size > int64(len(rest)) {
			return out, end, broken("a record's length in the batch at offset %d", base)
		}
		var timeDelta, delta int64
		if timeDelta, delta, ok = decodeRecord(rest[:size:size], &rec, &headers); !ok {
			return out, end, broken("a record in the batch at offset %d", base)
		}
		d = rest[size:]
		rec.Offset = base + delta
		if rec.Offset < base || rec.Offset >= end {
			return out, end, broken("offset %d in the batch of %d to %d", rec.Offset, base, end-1)
		}
		if rec.Offset < from {
			continue
		}
		rec.Time = first + timeDelta
		if attr&attrAppendTime != 0 {
			rec.Time = largest
		}
		out = append(out, rec)
		if heads += headerCost * len(rec.Headers); heads > maxBatch && n > 1 {
			*room -= heads
			next := from
			for _, r := range out[before:] { // a broken batch may have them in any order
				next = max(next, r.Offset+1)
			}
			return out, next, nil
		}
	}
	*room -= heads
	if len(d) != 0 {
		return out, end, broken("%d bytes behind the last record of the batch at offset %d", len(d), base)
	}
	return out, end, nil
}

// decodeRecord decodes a record behind its length.
func decodeRecord(b []byte, rec *Record, headers *[]Header) (timeDelta, delta int64, ok bool) {
	size := len(b)
	if size < 1 {
		return 0, 0, false
	}
	if timeDelta, b, ok = varint(b[1:]); !ok {
		return 0, 0, false
	}
	if delta, b, ok = varint(b); !ok {
		return 0, 0, false
	}
	if rec.Key, b, ok = field(b); !ok {
		return 0, 0, false
	}
	if rec.Value, b, ok = field(b); !ok {
		return 0, 0, false
	}
	n, b, ok := varint(b)
	if !ok || n < 0 || n > int64(len(b))/2 {
		return 0, 0, false
	}
	if n > mostHeaders {
		rec.LeftOut = int64(size)
		if rec.Value = nil; len(rec.Key) > streamKey {
			rec.Key = nil
		}
		return timeDelta, delta, true
	}
	start := len(*headers)
	for ; n > 0; n-- {
		var key, value []byte
		if key, b, ok = field(b); !ok || key == nil {
			return 0, 0, false
		}
		if value, b, ok = field(b); !ok {
			return 0, 0, false
		}
		// The name is a view of the answer, which never changes and lives as long as the view.
		*headers = append(*headers, Header{Key: unsafe.String(unsafe.SliceData(key), len(key)), Value: value})
	}
	if end := len(*headers); end > start {
		rec.Headers = (*headers)[start:end:end]
	}
	return timeDelta, delta, len(b) == 0
}

// field reads a length and as many bytes; -1 is nil.
func field(b []byte) (v, rest []byte, ok bool) {
	n, b, ok := varint(b)
	if !ok || n < -1 || n > int64(len(b)) {
		return nil, nil, false
	}
	if n < 0 {
		return nil, b, true
	}
	return b[:n:n], b[n:], true
}

// varint is binary.Varint with its most usual case in front.
func varint(b []byte) (int64, []byte, bool) {
	if len(b) > 0 && b[0] < 0x80 {
		return int64(b[0]>>1) ^ -int64(b[0]&1), b[1:], true
	}
	v, n := binary.Varint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

// errTooMuch: a batch unpacks to more than maxBatch.
var errTooMuch = errors.New("kafka: a batch unpacks to too much")

// unpack decompresses the records of a batch, up to maxBatch.
func unpack(codec Codec, b []byte) ([]byte, error) {
	if codec > Zstd {
		return nil, broken("compression %d is not known", codec)
	}
	r := compress.Compression(codec).Codec().NewReader(bytes.NewReader(b))
	defer r.Close()
	var out bytes.Buffer
	out.Grow(min(4*len(b)+bytes.MinRead, maxBatch))
	n, err := out.ReadFrom(io.LimitReader(r, maxBatch+1))
	if err != nil {
		return nil, broken("unpack: %v", err)
	}
	if n > maxBatch {
		return nil, errTooMuch
	}
	return out.Bytes(), nil
}
