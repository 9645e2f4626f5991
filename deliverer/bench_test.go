package deliverer

import (
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// BenchmarkBacklog pushes a backlog of 50,000 tasks of 10 subscriptions through to a receiver in this process. With HOOKFERRY_TEST_KAFKA set, from a real
// broker: the figure to look at, because the broker in memory costs this process more than the deliverer does.
func BenchmarkBacklog(b *testing.B) {
	const tasks, lanes = 50_000, 10
	for b.Loop() {
		b.StopTimer()
		got, done := atomic.Int64{}, make(chan struct{})
		w := newWorld(b, func(c *worldConfig) {
			c.partitions, c.quiet = 12, true
			c.receiver = sandbox.ReceiverConfig{Forget: true, Notify: func(*sandbox.Received) {
				if got.Add(1) == tasks {
					close(done)
				}
			}}
		})
		w.realRedis = os.Getenv("HOOKFERRY_TEST_REDIS")
		var paths []string
		for i := range lanes {
			paths = append(paths, "/ok/"+strconv.Itoa(i))
		}
		subs := w.subscribeAll(paths...)
		body := make([]byte, 1100)
		for i := range body {
			body[i] = 'a' + byte(i%26)
		}
		for range tasks / 1000 {
			var ts []*schemas.Task
			for i := range 1000 {
				task := w.task(pick(subs, i))
				task.Body = body
				ts = append(ts, task)
			}
			w.put(ts...)
		}
		b.StartTimer()
		begun := time.Now()
		r := w.start()
		<-done
		b.StopTimer()
		b.ReportMetric(tasks/time.Since(begun).Seconds(), "tasks/s")
		r.stop()
		b.StartTimer()
	}
}

func pick(subs []*subscriptions.Live, i int) *subscriptions.Live { return subs[i%len(subs)] }
