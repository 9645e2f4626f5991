package recent

import (
	"context"
	"math/rand/v2"
	"testing"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/schemas"
)

func newDecoder() *decoder {
	return &decoder{log: zap.NewNop(), readers: map[schemas.Frame]*writer{}, waiting: func(bool) {}}
}

func framed(t testing.TB, ev schemas.Event) []byte {
	t.Helper()
	b, err := ev.AppendAvro(schemas.AppendSingleObject(nil, schemas.EventSchema(ev.EntityName()).Fingerprint()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestARecordThatIsTooLargeIsPassedOver(t *testing.T) {
	d := newDecoder()
	for _, r := range []kafka.Record{{LeftOut: 5 << 20}, {Value: make([]byte, schemas.MaxInput+1)}} {
		if _, ok, reason, err := d.change(context.Background(), kafka.TP{}, &r); ok || reason != skipTooLarge || err != nil {
			t.Error(ok, reason, err)
		}
	}
}

// go test -run XXX -bench Decode ./recent
func BenchmarkDecode(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	var values [][]byte
	for i := range 64 {
		values = append(values, framed(b, sandbox.Sample(rng, "booking.amendment", "acme", int64(i))))
	}
	d := newDecoder()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok, reason, err := d.change(context.Background(), kafka.TP{Topic: "t"}, &kafka.Record{Value: values[i%64], Time: 1}); !ok {
			b.Fatal(reason, err)
		}
	}
}
