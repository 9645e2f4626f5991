package deliverer

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/schemas"
)

// More receivers than there are descriptors for: nobody takes those that Kafka and Redis need, an idle connection makes room for one that is wanted, and every
// task arrives.
func TestReceiversTakeNoMoreConnectionsThanTheirShare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var paths []string
	for _, c := range "abcdefghijkl" {
		paths = append(paths, "/delay/5ms/"+string(c))
	}
	subs := w.subscribeAll(paths...)
	d := w.start()
	d.connections.most = 3 // before there is a task
	var ts []*schemas.Task
	for range 20 {
		for _, s := range subs {
			ts = append(ts, w.task(s))
		}
	}
	w.put(ts...)
	most := int64(0)
	w.eventually(60*time.Second, "all arrive", func() bool {
		most = max(most, d.connections.open.Load())
		return len(w.receiver.Ledger()) >= len(ts)
	})
	w.must(d.stop())
	if n := len(w.receiver.Ledger()); n != len(ts) || most > 3 || d.connections.open.Load() != 0 {
		t.Errorf("%d requests for %d tasks, %d connections at once, %d at the end", n, len(ts), most, d.connections.open.Load())
	}
}

// Where nothing is idle, the next one is refused as our own trouble, and a connection that is closed twice makes room once.
func TestAConnectionBeyondTheShareIsOurOwnTrouble(t *testing.T) {
	c := &connections{most: 1, room: make(chan struct{}, 1), evict: func() bool { return false }, log: zap.NewNop()}
	dial := c.dial(func(context.Context, string, string) (net.Conn, error) { a, _ := net.Pipe(); return a, nil })
	first, err := dial(t.Context(), "tcp", "192.0.2.1:443")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t.Context(), "tcp", "192.0.2.1:443"); egress.KindOf(err) != egress.KindLocal {
		t.Errorf("the second: %v", err)
	}
	first.Close()
	first.Close()
	if n := c.open.Load(); n != 0 {
		t.Errorf("%d are open", n)
	}
}
