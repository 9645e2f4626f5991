package schemas

import (
	"regexp"
	"strings"
	"testing"
)

// TestIDsAreFixed: the ids are a contract between releases. A change here would send again what an older release sent.
func TestIDsAreFixed(t *testing.T) {
	src := Source{Topic: "hookferry.events.booking", Partition: 3, Offset: 42, Time: 1}
	if got, want := TaskID(src, "evt_1", "sub_a", ""), "m4fagayz663gkixv63nlppnahp"; got != want {
		t.Errorf("task id %s, want %s", got, want)
	}
	if got, want := WebhookID("sub_a", "evt_1"), "msg_tvbpivx45yh5adjlssmkcog6ci"; got != want {
		t.Errorf("webhook id %s, want %s", got, want)
	}
}

// TestTaskIDDependsOnEachField but the append time, and never on how neighbouring fields are cut.
func TestTaskIDDependsOnEachField(t *testing.T) {
	base := Source{Topic: "t", Partition: 1, Offset: 2, Time: 3}
	ids := map[string]string{}
	add := func(what string, src Source, event, sub, replay string) {
		id := TaskID(src, event, sub, replay)
		if !regexp.MustCompile(`^[a-z2-7]{26}$`).MatchString(id) {
			t.Errorf("%s: id %q", what, id)
		}
		if other, ok := ids[id]; ok {
			t.Errorf("%s and %s have one id", what, other)
		}
		ids[id] = what
	}
	add("base", base, "e", "s", "")
	add("topic", Source{Topic: "u", Partition: 1, Offset: 2}, "e", "s", "")
	add("partition", Source{Topic: "t", Partition: 2, Offset: 2}, "e", "s", "")
	add("offset", Source{Topic: "t", Partition: 1, Offset: 3}, "e", "s", "")
	add("event", base, "f", "s", "")
	add("subscription", base, "e", "r", "")
	add("replay", base, "e", "s", "r1")
	add("cut 1", base, "es", "", "")
	add("cut 2", base, "", "es", "")
	add("cut 3", base, "e", "", "s")
	later := base
	later.Time = 99
	if TaskID(later, "e", "s", "") != TaskID(base, "e", "s", "") {
		t.Error("the append time changes the id")
	}
	if !strings.HasPrefix(WebhookID("a", "bc"), "msg_") || WebhookID("a", "bc") == WebhookID("ab", "c") {
		t.Error("webhook ids run together")
	}
}

func BenchmarkTaskID(b *testing.B) {
	src := Source{Topic: "hookferry.events.booking", Partition: 3, Offset: 42}
	b.ReportAllocs()
	for b.Loop() {
		TaskID(src, "evt_0123456789012345678901234567890123456789", "sub_abcdefghijklmnopqrstuvwxyz", "")
	}
}
