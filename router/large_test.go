package router

import (
	"bytes"
	"testing"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// Brokers count the packed bytes of a compressed batch: a record in it may be larger than any topic of ours takes. Written as it is, it would be refused
// again and again, and nothing behind it would ever be routed. Its place and its size are kept.
func TestARecordTooLargeToBeKeptStopsNothing(t *testing.T) {
	w := newWorld(t, false, nil)
	w.subscribe("sub_1", "c_a", FormatStandard, "*")
	tp, key, good, _ := w.sample("booking.creation", "c_a")
	large := append(bytes.Clone(good), make([]byte, 3<<20)...)
	longKey := append(bytes.Clone(key), make([]byte, 3<<20)...)
	packed := w.client.NewAppender(kafka.AppenderConfig{Compression: kafka.Zstd})
	var rs kafka.Records
	rs.Add(tp, key, []kafka.Header{{Key: "h", Value: []byte("x")}}, large)
	rs.Add(tp, longKey, nil, []byte("unframed"))
	rs.Add(tp, key, nil, []byte{9}, make([]byte, schemas.MaxInput)) // the largest that is kept, and a little
	rs.Add(tp, key, nil, make([]byte, 70<<20))
	rs.Add(tp, key, nil, good)
	if _, err := packed.Append(w.ctx, &rs); err != nil {
		t.Fatal(err)
	}
	w.start(nil)
	w.tasks(1, false)
	w.read(w.client.Topics().Undecodable, 4)
	left := map[int64]int64{}
	_, err := ScanUndecodable(w.ctx, w.client, -1, nil, func(u *Undecodable) bool {
		left[u.Source.Offset] = u.LeftOut
		if (u.LeftOut > 0) != (u.Value == nil) || u.LeftOut > 0 && len(u.Headers) > 0 || len(u.Key) > 4096 {
			t.Errorf("at offset %d: %d bytes left out, a value of %d, a key of %d, headers %v", u.Source.Offset, u.LeftOut, len(u.Value), len(u.Key), u.Headers)
		}
		return true
	})
	if err != nil || left[0] <= 3<<20 || left[1] <= 3<<20 || left[2] != 0 || left[3] < 70<<20 {
		t.Errorf("left out, by offset: %v (%v)", left, err)
	}
	w.committed()
	o, err := StartReroute(w.ctx, w.client, RerouteFilter{})
	if err != nil {
		t.Fatal(err)
	}
	w.until("the reroute is done", func() bool {
		s, err := RerouteProgress(w.ctx, w.client, o)
		return err == nil && s.Done() && s.Matched == 0
	})
}
