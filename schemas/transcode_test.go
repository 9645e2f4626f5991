package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	oldrand "math/rand"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
)

// stdRand: math/big takes the older generator.
func stdRand(g generator) *oldrand.Rand { return oldrand.New(oldrand.NewSource(g.Int64())) }

func plainOf(t testing.TB, doc []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	return v
}

func codecOf(t testing.TB, text string) *goavro.Codec {
	t.Helper()
	c, err := goavro.NewCodec(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTranscoderAgreesWithGoavro on generated values of every schema: goavro writes them, and we read, skip, and write them again from our JSON.
func TestTranscoderAgreesWithGoavro(t *testing.T) {
	for name, text := range everySchema(t) {
		t.Run(name, func(t *testing.T) {
			s, codec := parseOf(t, text), codecOf(t, text)
			g := generator{rand.New(rand.NewPCG(3, 4))}
			for range 60 {
				v := g.value(s.root, 0)
				wire, err := codec.BinaryFromNative(nil, v.native)
				if err != nil {
					t.Fatal(err)
				}
				out, rest, err := s.AppendJSON([]byte("x"), append(wire, 7))
				if err != nil || len(rest) != 1 || out[0] != 'x' {
					t.Fatalf("%v, %d bytes left", err, len(rest))
				}
				doc := out[1:]
				if got := plainOf(t, doc); !reflect.DeepEqual(got, v.plain) {
					t.Fatalf("got  %s\nwant %v", doc, v.plain)
				}
				if rest, err := s.Skip(wire); err != nil || len(rest) != 0 {
					t.Fatalf("skip: %v, %d bytes left", err, len(rest))
				}
				again, err := s.EncodeJSON(nil, doc)
				if err != nil {
					t.Fatalf("%v in %s", err, doc)
				}
				// Compared as JSON: goavro writes a map in no order, and a value may fit an earlier branch of a union.
				back, rest, err := s.AppendJSON(nil, again)
				if err != nil || len(rest) != 0 || !reflect.DeepEqual(plainOf(t, back), v.plain) {
					t.Fatalf("back %s (%v)\nwas  %s", back, err, doc)
				}
			}
		})
	}
}

// TestEveryTruncationIsRefused, and so is every cut of an event.
func TestEveryTruncationIsRefused(t *testing.T) {
	for name, text := range everySchema(t) {
		s, codec := parseOf(t, text), codecOf(t, text)
		wire, err := codec.BinaryFromNative(nil, generator{rand.New(rand.NewPCG(5, 6))}.value(s.root, 0).native)
		if err != nil {
			t.Fatal(err)
		}
		for n := range wire {
			_, _, err := s.AppendJSON(nil, wire[:n:n])
			if !errors.Is(err, errTruncated) {
				t.Fatalf("%s: %d of %d bytes gave %v", name, n, len(wire), err)
			}
			if _, err := s.Skip(wire[:n:n]); !errors.Is(err, errTruncated) {
				t.Fatalf("%s: skip of %d of %d bytes gave %v", name, n, len(wire), err)
			}
		}
	}
}

// stricter are the reasons for which we refuse what goavro takes.
var stricter = []error{errUTF8, errIntRange, errBoolean, errVarint, errNotFinite, errTimeRange, errDecimal, errDuplicate, errBlockSize, errElements, errNegative}

// TestMutatedBytesAgreeWithGoavro: bytes of generated values are changed, lost, doubled and put in. What we accept goavro accepts and reads as the
// same; what only goavro accepts we refuse for one of the reasons for which we mean to be stricter.
func TestMutatedBytesAgreeWithGoavro(t *testing.T) {
	blocks, size := goavro.MaxBlockCount, goavro.MaxBlockSize
	goavro.MaxBlockCount, goavro.MaxBlockSize = MaxElements, MaxInput
	defer func() { goavro.MaxBlockCount, goavro.MaxBlockSize = blocks, size }()
	accepted, refused := 0, map[string]int{}
	for name, text := range everySchema(t) {
		s, codec := parseOf(t, text), codecOf(t, text)
		g := generator{rand.New(rand.NewPCG(17, 18))}
		for range 400 {
			wire, err := codec.BinaryFromNative(nil, g.value(s.root, 3).native)
			if err != nil {
				t.Fatal(err)
			}
			wire = g.mutate(wire)
			out, rest, err := s.AppendJSON(nil, wire)
			if skipped, skipErr := s.Skip(wire); (skipErr == nil) != (err == nil) && !errors.Is(err, errDuplicate) || err == nil && len(skipped) != len(rest) {
				t.Fatalf("%s: transcoding says %v, skipping %v", name, err, skipErr)
			}
			native, theirRest, theirErr := codec.NativeFromBinary(wire)
			if err != nil {
				refused[err.(*DataError).Reason]++
				ours := func(e error) bool { return errors.Is(err, e) }
				if theirErr == nil && !slices.ContainsFunc(stricter, ours) {
					t.Fatalf("%s: we say %v and goavro nothing, of %x", name, err, wire)
				}
				continue
			}
			accepted++
			if theirErr != nil || len(theirRest) != len(rest) {
				t.Fatalf("%s: goavro says %v with %d bytes left, we leave %d of %x", name, theirErr, len(theirRest), len(rest), wire)
			}
			again, err := codec.BinaryFromNative(nil, native)
			if err != nil {
				continue // a few values that goavro reads it cannot write
			}
			back, _, err := s.AppendJSON(nil, again)
			if err != nil || !reflect.DeepEqual(plainOf(t, back), plainOf(t, out)) {
				t.Fatalf("%s: by way of goavro %s (%v), directly %s", name, back, err, out)
			}
		}
	}
	if accepted < 500 || len(refused) < 8 {
		t.Errorf("too tame: %d accepted, refused %v", accepted, refused)
	}
}

func (g generator) mutate(wire []byte) []byte {
	for range 1 + g.IntN(2) {
		if len(wire) == 0 {
			return wire
		}
		at := g.IntN(len(wire))
		switch g.IntN(6) {
		case 0:
			wire[at] ^= 1 << g.IntN(8)
		case 1:
			wire[at] = byte(g.Uint32())
		case 2:
			wire[at] = []byte{0, 1, 2, 3, 0x7f, 0x80, 0xff}[g.IntN(7)]
		case 3:
			wire = append(wire[:at], wire[at+1:]...)
		case 4:
			wire = slices.Insert(wire, at, byte(g.Uint32()))
		case 5:
			wire = slices.Insert(wire, at, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)
		}
	}
	return wire
}

// TestDatesAgreeWithTime on every day that has four digits of a year.
func TestDatesAgreeWithTime(t *testing.T) {
	buf := make([]byte, 0, 16)
	day := time.Unix(minDay*86_400, 0).UTC()
	for d := int64(minDay); d <= maxDay; d++ {
		y, m, dd := day.Date()
		buf = appendDate(buf[:0], d)
		got := int(buf[0]-'0')*1000 + int(buf[1]-'0')*100 + int(buf[2]-'0')*10 + int(buf[3]-'0')
		if len(buf) != 10 || got != y || int(buf[5]-'0')*10+int(buf[6]-'0') != int(m) || int(buf[8]-'0')*10+int(buf[9]-'0') != dd {
			t.Fatalf("day %d is %s, want %s", d, buf, day.Format(time.DateOnly))
		}
		day = day.AddDate(0, 0, 1)
	}
}

// TestQuotedAgreesWithTheStandardLibrary for every byte at every place of a word, and for text that is not UTF-8.
func TestQuotedAgreesWithTheStandardLibrary(t *testing.T) {
	for c := range 256 {
		for length := range 20 {
			for at := range length {
				s := bytes.Repeat([]byte("z"), length)
				s[at] = byte(c)
				out, ok := appendQuoted(nil, s)
				if ok != (c < 0x80) {
					t.Fatalf("%q: ok is %v", s, ok)
				}
				var back string
				if ok && (json.Unmarshal(out, &back) != nil || back != string(s)) {
					t.Fatalf("%q became %s", s, out)
				}
			}
		}
	}
}

func eventFixture(t testing.TB) (s *Schema, codec *goavro.Codec, wire []byte) {
	text, ok := everySchema(t)["booking_event"]
	if !ok {
		t.Fatal("booking_event.avsc is not here")
	}
	s, codec = parseOf(t, text), codecOf(t, text)
	for seed := uint64(0); len(wire) < 4000; seed++ {
		var err error
		if wire, err = codec.BinaryFromNative(nil, generator{rand.New(rand.NewPCG(seed, 1))}.value(s.root, 0).native); err != nil {
			t.Fatal(err)
		}
	}
	return s, codec, wire
}

func BenchmarkTranscodeBooking(b *testing.B) {
	s, _, wire := eventFixture(b)
	buf := make([]byte, 0, 1<<20)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := s.AppendJSON(buf, wire); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSkipBooking(b *testing.B) {
	s, _, wire := eventFixture(b)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Skip(wire); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzTranscode: what we accept goavro accepts, and reads as the same; what we skip is what we transcode; and it can be written again.
func FuzzTranscode(f *testing.F) {
	all := everySchema(f)
	names := []string{"wide", "booking_event", "inventory_event", "subscription"}
	type pair struct {
		s *Schema
		c *goavro.Codec
	}
	var pairs []pair
	for _, name := range names {
		if text, ok := all[name]; ok {
			pairs = append(pairs, pair{parseOf(f, text), codecOf(f, text)})
		}
	}
	g := generator{rand.New(rand.NewPCG(9, 9))}
	for i, p := range pairs {
		wire, err := p.c.BinaryFromNative(nil, g.value(p.s.root, 0).native)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), wire)
	}
	goavro.MaxBlockCount, goavro.MaxBlockSize = MaxElements, MaxInput
	f.Fuzz(func(t *testing.T, which byte, wire []byte) {
		p := pairs[int(which)%len(pairs)]
		out, rest, err := p.s.AppendJSON(nil, wire)
		skipped, skipErr := p.s.Skip(wire)
		if err != nil {
			if skipErr == nil && !errors.Is(err, errDuplicate) && !errors.Is(err, errSize) {
				t.Fatalf("transcoding says %v, skipping nothing", err)
			}
			return
		}
		if skipErr != nil || len(skipped) != len(rest) {
			t.Fatalf("skip: %v, %d bytes left, not %d", skipErr, len(skipped), len(rest))
		}
		if !json.Valid(out) {
			t.Fatalf("not JSON: %s", out)
		}
		native, theirRest, err := p.c.NativeFromBinary(wire)
		if err != nil || len(theirRest) != len(rest) {
			t.Fatalf("goavro: %v, %d bytes left, not %d", err, len(theirRest), len(rest))
		}
		wire2, err := p.c.BinaryFromNative(nil, native)
		if err != nil {
			return // a few values that goavro reads it cannot write
		}
		out2, _, err := p.s.AppendJSON(nil, wire2)
		if err != nil || !reflect.DeepEqual(plainOf(t, out2), plainOf(t, out)) {
			t.Fatalf("by way of goavro %s (%v), directly %s", out2, err, out)
		}
		if _, err := p.s.EncodeJSON(nil, out); err != nil {
			t.Fatalf("our JSON is refused: %v", err)
		}
	})
}
