package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hookferry/hookferry/bench/rig"
	"github.com/hookferry/hookferry/schemas"
)

// A million deliveries are read and checked within 20 s of processor time and 4 GiB. HOOKFERRY_MEASURE_CHECK=1 measures it; the ledger has the lines that a farm writes.
func TestCheckTakesAMillionDeliveries(t *testing.T) {
	if os.Getenv("HOOKFERRY_MEASURE_CHECK") == "" {
		t.Skip("HOOKFERRY_MEASURE_CHECK is not set")
	}
	const events = 200_000 // of four companies, five receivers each
	file := filepath.Join(t.TempDir(), "farm.ledger")
	r := &Run{Owed: map[string]func(int) bool{}, Receivers: map[string][]rig.Request{}, Paths: map[string]string{}, Topics: &rig.Topics{Postponed: make([]int, companies*perCompany)}}
	for c := range companies {
		for i := range perCompany {
			name := receiverName(1, c, i)
			r.Names = append(r.Names, name)
			r.Paths[name] = "/ok/" + name
			r.Owed[name] = func(company int) bool { return company == c }
		}
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 0, 1<<20)
	n, base := 0, time.Now().Add(-time.Hour)
	for seq := range events {
		c := seq % companies
		r.Events = append(r.Events, rig.Sent{Company: c, Entity: int64(seq / companies / 4), Version: seq/companies%4 + 1, Fate: rig.Accepted})
		r.Topics.Logged = append(r.Topics.Logged, rig.Logged{Seq: int64(seq), Partition: int32(c), Offset: int64(seq)})
		for i := range perCompany {
			n++
			sub := int32(c*perCompany + i)
			at := base.Add(time.Duration(n) * time.Millisecond)
			id := rig.TaskID([]byte(fmt.Sprintf("%026d", n)))
			r.Topics.Tasks = append(r.Topics.Tasks, rig.TaskRecord{ID: id, Subscription: sub, Seq: int64(seq)})
			r.Topics.Attempts = append(r.Topics.Attempts, rig.AttemptRecord{ID: id, Subscription: sub, Number: 1, Seq: int64(seq), Verdict: schemas.VerdictDelivered})
			line = fmt.Appendf(line, "r\t%d\t%d\t%s\tmsg_%026d\tevt_%020d\ten-%010d\t%d\t%d\t1\t%d\tok\tok\t%064d\t1100\t1100\t200\ne\t%d\t%d\tanswered\t1100\n",
				n, at.UnixNano(), r.Paths[r.Names[sub]], n, seq, seq/16, seq, at.UnixNano(), at.Unix(), seq, n, at.UnixNano()+5e5)
		}
		if len(line) > 1<<19 || seq == events-1 {
			if _, err := f.Write(line); err != nil {
				t.Fatal(err)
			}
			line = line[:0]
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	begin := processor()
	all, err := rig.ReadRequests(file)
	if err != nil {
		t.Fatal(err)
	}
	read := processor() - begin
	r.requests(all, "r1-")
	all = nil
	found := Check(r)
	took, most := processor()-begin, peak()
	runtime.KeepAlive(r)
	if !found.OK() || found.Delivered != events*perCompany || found.Ordered == 0 {
		t.Errorf("%v", found)
	}
	t.Logf("%d deliveries: read in %.1f s, checked in %.1f s, %d MiB at most", found.Delivered, read.Seconds(), (took - read).Seconds(), most>>20)
	if took > 20*time.Second || most > 4<<30 {
		t.Errorf("%v and %d MiB", took, most>>20)
	}
}

func processor() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peak is the most memory that this process has had resident.
func peak() int64 {
	b, _ := os.ReadFile("/proc/self/status")
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
