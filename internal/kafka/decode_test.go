package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"
)

// built is a batch of records as the broker would hand it out, at a base offset.
func built(t testing.TB, codec Codec, base int64, values ...string) []byte {
	t.Helper()
	var r Records
	for i, v := range values {
		r.Add(TP{}, []byte(fmt.Sprint("k", i)), []Header{{"h", []byte("x")}, {"", nil}}, []byte(v))
	}
	b, n := r.slots[0].batches[0].b, r.slots[0].batches[0].n
	if codec != None {
		var err error
		if b, err = pack(b, codec); err != nil {
			t.Fatal(err)
		}
	}
	stamp(b, n, codec, 1, 0, 0, time.UnixMilli(1000))
	return atOffset(b[4:], base)
}

// atOffset sets the base offset, which no checksum covers.
func atOffset(h []byte, base int64) []byte {
	binary.BigEndian.PutUint64(h, uint64(base))
	return h
}

// resealed computes the checksum anew, after a change.
func resealed(h []byte) []byte {
	binary.BigEndian.PutUint32(h[17:], crc32.Checksum(h[21:], castagnoli))
	return h
}

func offsetsOf(rs []Record) (out []int64) {
	for _, r := range rs {
		out = append(out, r.Offset)
	}
	return out
}

func TestDecodeBatches(t *testing.T) {
	one := func() []byte { return built(t, None, 10, "a", "b", "c") }
	two := func() []byte { return built(t, Lz4, 20, "d", "e") }
	control := built(t, None, 13, "marker")
	binary.BigEndian.PutUint16(control[21:], attrControl)
	resealed(control)
	// Compaction keeps the deltas of what is left: here two records of five, the last one gone.
	gaps := built(t, None, 30, "x", "y")
	binary.BigEndian.PutUint32(gaps[23:], 4)
	resealed(gaps)
	empty := append([]byte(nil), built(t, None, 40, "gone")[:batchBytes]...)
	binary.BigEndian.PutUint32(empty[8:], batchBytes-12)
	binary.BigEndian.PutUint32(empty[23:], 9)
	binary.BigEndian.PutUint32(empty[57:], 0)
	resealed(empty)
	stamped := built(t, None, 10, "a")
	binary.BigEndian.PutUint16(stamped[21:], attrAppendTime)
	binary.BigEndian.PutUint64(stamped[35:], 5000)
	resealed(stamped)
	cat := func(parts ...[]byte) (out []byte) {
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	for _, c := range []struct {
		name    string
		b       []byte
		from    int64
		offsets []int64
		next    int64
		cut     bool
	}{
		{"nothing", nil, 5, nil, 5, false},
		{"one batch", one(), 10, []int64{10, 11, 12}, 13, false},
		{"below the asked offset", one(), 11, []int64{11, 12}, 13, false},
		{"a whole batch below it", cat(one(), two()), 20, []int64{20, 21}, 22, false},
		{"two batches and a cut one", cat(one(), two(), one()[:70]), 10, []int64{10, 11, 12, 20, 21}, 22, true},
		{"cut in a head", cat(one(), two()[:30]), 10, []int64{10, 11, 12}, 13, true},
		{"only a cut one", one()[:80], 10, nil, 10, true},
		{"a transaction's marker", cat(one(), control), 10, []int64{10, 11, 12}, 14, false},
		{"only a marker", control, 13, nil, 14, false},
		{"gaps", gaps, 30, []int64{30, 31}, 35, false},
		{"all gone", cat(gaps, empty), 33, nil, 50, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			rs, next, cut, err := decodeBatches(c.b, c.from, nil)
			if err != nil || fmt.Sprint(offsetsOf(rs)) != fmt.Sprint(c.offsets) || next != c.next || cut != c.cut {
				t.Fatalf("%v next %d cut %v: %v", offsetsOf(rs), next, cut, err)
			}
		})
	}
	rs, _, _, _ := decodeBatches(stamped, 10, nil)
	if rs[0].Time != 5000 {
		t.Errorf("the broker's time is 5000, told is %d", rs[0].Time)
	}
	rs, _, _, _ = decodeBatches(one(), 10, nil)
	if r := rs[1]; r.Time != 1000 || string(r.Key) != "k1" || string(r.Value) != "b" || len(r.Headers) != 2 || r.Headers[0].Key != "h" {
		t.Errorf("%+v", rs[1])
	}
}

func TestBrokenBatchesAreErrors(t *testing.T) {
	change := func(f func(h []byte)) []byte {
		h := built(t, None, 10, "a", "b", "c")
		f(h)
		return resealed(h)
	}
	be := binary.BigEndian
	flipped := built(t, None, 10, "abc")
	flipped[len(flipped)-2] ^= 1
	zipped := built(t, Gzip, 10, "abc")
	zipped[len(zipped)-6] ^= 0xff
	for name, b := range map[string][]byte{
		"checksum":            flipped,
		"compressed rubbish":  resealed(zipped),
		"message format 1":    change(func(h []byte) { h[16] = 1 }),
		"negative count":      change(func(h []byte) { be.PutUint32(h[57:], ^uint32(0)) }),
		"2^31-1 records":      change(func(h []byte) { be.PutUint32(h[57:], math.MaxInt32) }),
		"one record too few":  change(func(h []byte) { be.PutUint32(h[57:], 2) }),
		"one record too many": change(func(h []byte) { be.PutUint32(h[57:], 4) }),
		"last delta too low":  change(func(h []byte) { be.PutUint32(h[23:], 1) }),
		"negative last delta": change(func(h []byte) { be.PutUint32(h[23:], ^uint32(0)) }),
		"negative base":       change(func(h []byte) { be.PutUint64(h, 1<<63) }),
		"unknown codec":       change(func(h []byte) { be.PutUint16(h[21:], 7) }),
		"tiny length":         change(func(h []byte) { be.PutUint32(h[8:], 3) }),
		"record length":       change(func(h []byte) { h[batchBytes] = 0x7e }),
		"key length":          change(func(h []byte) { h[batchBytes+4] = 0x7e }),
		"header count":        change(func(h []byte) { h[batchBytes+9] = 0x7e }),
		"long varint": change(func(h []byte) {
			for i := range 12 {
				h[batchBytes+i] = 0xff
			}
		}),
	} {
		if rs, _, _, err := decodeBatches(b, 0, nil); !errors.Is(err, errBroken) {
			t.Errorf("%s: %d records, %v", name, len(rs), err)
		}
	}
}

func TestEveryTruncationOfAnAnswerIsNoticed(t *testing.T) {
	whole := answerOf("topic", 3, built(t, Snappy, 10, "a", "b"))
	seen := 0
	if _, _, err := decodeFetch(whole, func(b []byte) string { return string(b) }, func(f fetched) { seen++ }); err != nil || seen != 1 {
		t.Fatal(seen, err)
	}
	for n := range len(whole) {
		seen := 0
		if _, _, err := decodeFetch(whole[:n], func(b []byte) string { return string(b) }, func(f fetched) { seen++ }); !errors.Is(err, errBroken) || seen > 0 {
			t.Fatalf("cut at %d: %d partitions, %v", n, seen, err)
		}
	}
}

// answerOf is a Fetch v11 answer with one partition.
func answerOf(topic string, partition int32, records []byte) []byte {
	be := binary.BigEndian
	b := make([]byte, 4+4+2+4)
	b = be.AppendUint32(b, 1)
	b = be.AppendUint16(b, uint16(len(topic)))
	b = append(b, topic...)
	b = be.AppendUint32(b, 1)
	b = be.AppendUint32(b, uint32(partition))
	b = be.AppendUint16(b, 0)
	b = be.AppendUint64(b, 100)
	b = be.AppendUint64(b, 100)
	b = be.AppendUint64(b, 0)
	b = be.AppendUint32(b, ^uint32(0))
	b = be.AppendUint32(b, ^uint32(0))
	b = be.AppendUint32(b, uint32(len(records)))
	return append(b, records...)
}

// oneBatch is built for any size: a Records would begin a new batch before the first large value.
func oneBatch(t testing.TB, codec Codec, base int64, values ...string) []byte {
	t.Helper()
	return placed(t, codec, base, func(i int) int64 { return int64(i) }, values...)
}

// placed is oneBatch with the records' offsets behind the base as they are told.
func placed(t testing.TB, codec Codec, base int64, delta func(i int) int64, values ...string) []byte {
	t.Helper()
	b := make([]byte, batchHead)
	for i, v := range values {
		rec := binary.AppendVarint([]byte{0, 0}, delta(i))
		rec = append(binary.AppendVarint(rec, 1), 'k')
		rec = append(binary.AppendVarint(rec, int64(len(v))), v...)
		rec = append(rec, 0)
		b = append(binary.AppendVarint(b, int64(len(rec))), rec...)
	}
	b, err := pack(b, codec)
	if err != nil {
		t.Fatal(err)
	}
	stamp(b, len(values), codec, 1, 0, 0, time.UnixMilli(1000))
	return atOffset(b[4:], base)
}

// A batch of some kilobytes that unpacks to much more than may be held: everything in it is read, in pieces; what is too large is named, not held; and the
// batch behind it is reached.
func TestABombIsReadInPieces(t *testing.T) {
	values := []string{"first", strings.Repeat("x", 70<<20), "between"}
	for range 40 {
		values = append(values, strings.Repeat("y", 1<<20))
	}
	for codec := Gzip; codec <= Zstd; codec++ {
		log := append(oneBatch(t, codec, 10, values...), built(t, None, 10+int64(len(values)), "behind")...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var got []Record
		from := int64(10)
		for piece := 0; from < 10+int64(len(values))+1; piece++ {
			rs, next, cut, err := decodeBatches(log, from, nil)
			if err != nil || cut || next <= from {
				t.Fatalf("codec %d, piece %d: from %d to %d, cut %v: %v", codec, piece, from, next, cut, err)
			}
			held := 0
			for _, r := range rs {
				held += len(r.Value)
			}
			if held > maxUnpacked {
				t.Errorf("codec %d: %d bytes are held at once", codec, held)
			}
			for _, r := range rs {
				r.Value = r.Value[:min(len(r.Value), 16)] // so that the pieces can go
				got = append(got, r)
			}
			from = next
		}
		runtime.ReadMemStats(&after)
		if len(got) != len(values)+1 {
			t.Fatalf("codec %d: %d records of %d", codec, len(got), len(values)+1)
		}
		for i, r := range got {
			want := "behind"
			if i < len(values) {
				want = values[i]
			}
			out := len(want) > streamRecord
			if r.Offset != int64(10+i) || r.Time == 0 || out != (r.LeftOut > int64(len(want))) || !out && string(r.Value) != want[:min(len(want), 16)] {
				t.Errorf("codec %d: record %d at offset %d, time %d, %d bytes left out, value %.20q", codec, i, r.Offset, r.Time, r.LeftOut, r.Value)
			}
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 512<<20 {
			t.Errorf("codec %d took %d MiB", codec, took>>20)
		}
	}
}

// Empty headers take two bytes each in a batch and many times as much in memory: what of them is held at a time is bounded, and a record of nothing else is taken
// without them. What stands behind is read.
func TestABombOfHeadersIsReadInPieces(t *testing.T) {
	record := func(i, headers int) []byte {
		rec := binary.AppendVarint([]byte{0, 0}, int64(i))
		rec = append(binary.AppendVarint(rec, 1), 'k')
		rec = append(binary.AppendVarint(rec, 1), 'v')
		return append(binary.AppendVarint(rec, int64(headers)), make([]byte, 2*headers)...)
	}
	counts := []int{1}
	for range 14 {
		counts = append(counts, mostHeaders)
	}
	counts = append(counts, 3<<20, 2)
	for _, codec := range []Codec{None, Gzip, Zstd} {
		b := make([]byte, batchHead)
		for i, n := range counts {
			rec := record(i, n)
			b = append(binary.AppendVarint(b, int64(len(rec))), rec...)
		}
		if codec != None {
			var err error
			if b, err = pack(b, codec); err != nil {
				t.Fatal(err)
			}
		}
		stamp(b, len(counts), codec, 1, 0, 0, time.UnixMilli(1000))
		log := append(atOffset(b[4:], 10), built(t, None, 10+int64(len(counts)), "behind")...)
		seen, pieces := 0, 0
		for from := int64(10); from < 10+int64(len(counts))+1; pieces++ {
			rs, next, cut, err := decodeBatches(log, from, nil)
			if err != nil || cut || next <= from {
				t.Fatalf("codec %d: from %d to %d, cut %v: %v", codec, from, next, cut, err)
			}
			held := 0
			for _, r := range rs {
				held += headerCost * len(r.Headers)
				if i := int(r.Offset - 10); i < len(counts) {
					if out := counts[i] > mostHeaders; out != (r.LeftOut > 0) || !out && len(r.Headers) != counts[i] || string(r.Key) != "k" {
						t.Errorf("codec %d: record %d with %d headers of %d, %d bytes left out", codec, i, len(r.Headers), counts[i], r.LeftOut)
					}
				}
				seen++
			}
			if held > maxBatch+headerCost*mostHeaders {
				t.Errorf("codec %d: headers of %d MiB are held at once", codec, held>>20)
			}
			from = next
		}
		if seen != len(counts)+1 || pieces < 3 {
			t.Errorf("codec %d: %d records of %d in %d pieces", codec, seen, len(counts)+1, pieces)
		}
	}
}

// A streamed batch whose offsets go down as well as up, which no broker writes, is read in pieces like any other. The position behind a piece lies behind all that the
// piece gave out: by the last record's offset it would be set back, and what was read already be read, and routed, again, without an end.
func TestAPieceOfABrokenBatchNeverPointsBack(t *testing.T) {
	const n = 40
	values := []string{"so that a piece ends behind the second of a pair"}
	for range n - 1 {
		values = append(values, strings.Repeat("y", 1<<20))
	}
	log := append(placed(t, Zstd, 10, func(i int) int64 { return int64(i ^ 1) }, values...), built(t, None, 10+n, "behind")...)
	given, from, pieces := map[int64]bool{}, int64(10), 0
	for from < 10+n+1 {
		rs, next, cut, err := decodeBatches(log, from, nil)
		if err != nil || cut || next <= from {
			t.Fatalf("from %d to %d, cut %v: %v", from, next, cut, err)
		}
		for _, r := range rs {
			if r.Offset < from || r.Offset >= next || given[r.Offset] {
				t.Fatalf("piece %d from %d gives offset %d, again %v, and goes on at %d", pieces, from, r.Offset, given[r.Offset], next)
			}
			given[r.Offset] = true
		}
		from, pieces = next, pieces+1
	}
	if pieces < 2 || !given[10+n] {
		t.Errorf("%d pieces, and what lies behind the batch is reached: %v", pieces, given[10+n])
	}
}

// Many small bombs in one answer: each may be held, and not all of them at once.
func TestTheBatchesOfOneAnswerShareTheRoom(t *testing.T) {
	bomb := strings.Repeat("x", 10<<20)
	var log []byte
	for i := range 20 {
		log = append(log, oneBatch(t, Zstd, int64(i), bomb)...)
	}
	n := 0
	for from := int64(0); from < 20; {
		rs, next, _, err := decodeBatches(log, from, nil)
		if err != nil || next <= from || len(rs) > maxUnpacked/len(bomb)+1 {
			t.Fatalf("from %d to %d with %d records: %v", from, next, len(rs), err)
		}
		n, from = n+len(rs), next
	}
	if n != 20 {
		t.Errorf("%d records of 20", n)
	}
	room := 0
	if rs, next, cut, err := decodeWithin(log, 3, nil, &room); len(rs) != 0 || next != 3 || cut || err != nil {
		t.Errorf("without room: %d records, next %d, cut %v, %v", len(rs), next, cut, err)
	}
}

// FuzzDecode feeds whole answers with good checksums, so that the fuzzer gets behind them.
func FuzzDecode(f *testing.F) {
	for codec := None; codec <= Zstd; codec++ {
		f.Add(built(f, codec, 10, "a", "b", "c"), int64(11))
	}
	f.Add([]byte{}, int64(0))
	f.Fuzz(func(t *testing.T, b []byte, from int64) {
		if len(b) > 1<<20 {
			return
		}
		decodeFetch(b, func(b []byte) string { return string(b) }, func(fetched) {})
		for rest := b; len(rest) >= batchBytes; {
			n := min(int64(len(rest)), max(batchBytes, int64(binary.BigEndian.Uint32(rest[8:]))+12))
			resealed(rest[:n])
			rest = rest[n:]
		}
		rs, next, _, err := decodeBatches(b, from, nil)
		last := from - 1
		for _, r := range rs {
			if r.Offset < from || (err == nil && r.Offset >= next) {
				t.Fatalf("offset %d; asked from %d, next %d, last %d", r.Offset, from, next, last)
			}
		}
		if next < from {
			t.Fatalf("next %d is before %d", next, from)
		}
	})
}

func TestSequencesWrapAsTheBrokersDo(t *testing.T) {
	for _, c := range []struct {
		seq  int32
		n    int
		next int32
	}{{0, 1, 1}, {5, 10, 15}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 1, 1, math.MaxInt32}, {math.MaxInt32 - 1, 5, 3}} {
		if got := nextSequence(c.seq, c.n); got != c.next {
			t.Errorf("%d + %d = %d instead of %d", c.seq, c.n, got, c.next)
		}
	}
}

// The expected values are those of Java's Utils.murmur2 tests.
func TestPartitionIsJavas(t *testing.T) {
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
	} {
		if got := int32(murmur2([]byte(key))); got != hash {
			t.Errorf("%q: %d instead of %d", key, got, hash)
		}
		if p := Partition([]byte(key), 12); p < 0 || p > 11 {
			t.Error(p)
		}
	}
}

func TestTierFor(t *testing.T) {
	tiers := []Tier{{"5s", 5 * time.Second}, {"1m", time.Minute}, {"5m", 5 * time.Minute}}
	for _, c := range []struct {
		d  time.Duration
		i  int
		ok bool
	}{{-1, 0, false}, {0, 0, false}, {4 * time.Second, 0, false}, {5 * time.Second, 0, true}, {59 * time.Second, 0, true}, {time.Minute, 1, true}, {time.Hour, 2, true}} {
		if i, ok := TierFor(tiers, c.d); i != c.i || ok != c.ok {
			t.Errorf("%v: %d %v", c.d, i, ok)
		}
	}
}

func TestSkewIsTheMedianOfRecentAppends(t *testing.T) {
	var s skew
	now := time.Now()
	if s.median() != 0 {
		t.Fatal("it is known before anything was measured")
	}
	for i := range 100 {
		off := 3 * time.Second
		if i%7 == 0 {
			off = time.Hour
		}
		s.add(now.Add(off).UnixMilli(), now.Add(-2*time.Millisecond), now.Add(2*time.Millisecond))
	}
	if d := s.median() - 3*time.Second; d.Abs() > 2*time.Millisecond {
		t.Fatal(s.median())
	}
}
