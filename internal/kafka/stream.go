package kafka

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/segmentio/kafka-go/compress"
)

// A compressed batch may unpack to gigabytes: a broker counts only the packed bytes. No careful publisher makes one, and one that is there must
// not stop its partition, since nothing behind it would ever be read. So it is unpacked as a stream, and each request takes a piece of it:
//
//	skip what lies before the asked offset -> take records up to streamPiece -> the next request asks for the offset behind them
//
// A record over streamRecord is taken without its bytes: Record.LeftOut.
const (
	streamPiece  = maxBatch
	streamRecord = 4 << 20
	streamKey    = 4 << 10 // of a record whose bytes are left out, a key up to this is kept
)

// decodeStream decodes a piece of the batch with head h, from the asked offset on. next is the offset behind it.
func decodeStream(codec Codec, packed, h []byte, base, end, from int64, out []Record) (records []Record, next int64, err error) {
	unpacker := compress.Compression(codec).Codec().NewReader(bytes.NewReader(packed))
	defer unpacker.Close()
	s := stream{r: bufio.NewReaderSize(unpacker, 64<<10)}
	first, largest := int64(binary.BigEndian.Uint64(h[27:])), int64(binary.BigEndian.Uint64(h[35:]))
	appendTime := binary.BigEndian.Uint16(h[21:])&attrAppendTime != 0
	n := int64(int32(binary.BigEndian.Uint32(h[57:])))
	var headers []Header
	for next = max(from, base); n > 0; n-- {
		size, err := binary.ReadVarint(s.r)
		if err != nil || size < 0 || size > math.MaxInt32 {
			return out, next, broken("a record's length in the batch at offset %d (%v)", base, err)
		}
		if s.taken > 0 && s.taken+size+recordCost > streamPiece {
			return out, next, nil
		}
		var rec Record
		timeDelta, delta, err := s.record(size, &rec, &headers)
		if err != nil {
			return out, next, broken("a record in the batch at offset %d (%v)", base, err)
		}
		rec.Offset = base + delta
		if rec.Offset < base || rec.Offset >= end {
			return out, next, broken("offset %d in the batch of %d to %d", rec.Offset, base, end-1)
		}
		if rec.Offset < from {
			s.back()
			headers = headers[:0]
			continue
		}
		rec.Time = first + timeDelta
		if appendTime {
			rec.Time = largest
		}
		out = append(out, rec)
		next = max(next, rec.Offset+1) // a broken batch may have them in any order
		s.keep()
		s.taken += recordCost + headerCost*int64(len(rec.Headers))
	}
	return out, end, nil
}

// stream reads records into memory that it takes in larger pieces; what is not kept is used again for the next record.
type stream struct {
	r     *bufio.Reader
	free  []byte
	used  int   // of free, by the record read last
	taken int64 // memory that the kept records cost
}

// record reads a record of so many bytes.
func (s *stream) record(size int64, rec *Record, headers *[]Header) (timeDelta, delta int64, err error) {
	if size > streamRecord {
		return s.large(size, rec)
	}
	if int64(len(s.free)) < size {
		s.free = make([]byte, max(size, 1<<20))
	}
	s.used = int(size)
	b := s.free[:size:size]
	if _, err := io.ReadFull(s.r, b); err != nil {
		return 0, 0, err
	}
	timeDelta, delta, ok := decodeRecord(b, rec, headers)
	if !ok {
		err = errBroken
	}
	return timeDelta, delta, err
}

// large reads the head of a record and leaves out the rest.
func (s *stream) large(size int64, rec *Record) (timeDelta, delta int64, err error) {
	s.used = 0
	rec.LeftOut = size
	rest := &io.LimitedReader{R: s.r, N: size}
	head := bufio.NewReaderSize(rest, streamKey+64)
	if _, err = head.Discard(1); err != nil { // attributes
		return 0, 0, err
	}
	var keyLen int64
	for _, v := range []*int64{&timeDelta, &delta, &keyLen} {
		if *v, err = binary.ReadVarint(head); err != nil {
			return 0, 0, err
		}
	}
	if keyLen >= 0 && keyLen <= streamKey {
		rec.Key = make([]byte, keyLen)
		if _, err = io.ReadFull(head, rec.Key); err != nil {
			return 0, 0, err
		}
	}
	if _, err = io.Copy(io.Discard, head); err == nil && rest.N > 0 {
		err = fmt.Errorf("%w: %d bytes are missing", io.ErrUnexpectedEOF, rest.N)
	}
	return timeDelta, delta, err
}

// keep makes what was read last the caller's; back makes it free again.
func (s *stream) keep() {
	s.free = s.free[s.used:]
	s.taken += int64(s.used)
	s.back()
}

func (s *stream) back() { s.used = 0 }
