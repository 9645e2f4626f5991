package recent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/schemas"
)

// The list follows a booking through its life; a restart, which reads all anew, and a command, which reads without a service, say the same.
func TestTheListFollowsAmendmentAndCancellationAndIsTheSameAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.booking("booking.creation", "acme", "B-1", 1)
	w.booking("booking.creation", "acme", "B-2", 1)
	w.booking("booking.creation", "other", "B-1", 1)
	s, stop := w.start()
	w.booking("booking.creation", "acme", "B-3", 1)
	amended := w.booking("booking.amendment", "acme", "B-1", 3)
	w.booking("booking.amendment", "acme", "B-1", 2) // came late
	cancelled := w.booking("booking.cancellation", "acme", "B-2", 2)
	got := w.fresh(s, "acme", 0)
	if want := []string{"B-2 v2 CANCELLED", "B-1 v3 CONFIRMED", "B-3 v1 CONFIRMED"}; !slices.Equal(got.ids(), want) || got.Limit != DefaultLimit || got.CompanyID != "acme" {
		t.Fatalf("%v, want %v", got.ids(), want)
	}
	if b := got.Bookings[0]; b.LastEvent != "booking.cancellation" || b.CancelledAt == nil || !b.CancelledAt.Equal(cancelled.Data.Cancellation.CancelledAt) {
		t.Errorf("the cancelled one: %+v", b)
	}
	lead := amended.Data.Customers[0]
	if b := got.Bookings[1]; b.Total.Amount != amended.Data.Totals.Total.Amount.String() || b.CustomerName != *lead.FirstName+" "+*lead.LastName ||
		b.Title != amended.Data.Activities[0].Name || b.FirstDate != amended.Data.Activities[0].LocalDate.String() || b.Lines < 1 || b.Passengers < 1 {
		t.Errorf("the amended one: %+v", b)
	}
	if got := w.fresh(s, "acme", 1); len(got.Bookings) != 1 {
		t.Errorf("%v", got.ids())
	}
	if got := w.fresh(s, "nobody", 5); len(got.Bookings) != 0 || got.Bookings == nil {
		t.Errorf("%v", got.Bookings)
	}
	stop()
	again, _ := w.start()
	if after := w.fresh(again, "acme", 0); !slices.Equal(after.ids(), got.ids()) {
		t.Errorf("after a restart %v, before %v", after.ids(), got.ids())
	}
	r, err := Read(w.ctx, w.client, w.log, "acme", nil)
	w.must(err)
	defer r.Close()
	doc, err := r.Recent(w.ctx, Ask{Company: "acme"})
	w.must(err)
	if service, err := again.bookings.document(&Ask{Company: "acme", Limit: DefaultLimit}); err != nil || !sameButAge(doc, service) {
		t.Errorf("read by a command:\n%s\nby the service:\n%s", doc, service)
	}
	if companies, _ := r.bookings.model.Size(); companies != 1 {
		t.Errorf("a command keeps %d companies", companies)
	}
}

func sameButAge(a, b []byte) bool {
	cut := func(d []byte) string { _, rest, _ := strings.Cut(string(d), `,`); return rest }
	return cut(a) == cut(b) && cut(a) != ""
}

// Whatever lies in the topic is passed over and counted, and what lies behind it is read.
func TestWhatCannotBeReadIsPassedOverAndCounted(t *testing.T) {
	w := newWorld(t)
	good := w.booking("booking.creation", "acme", "B-0", 1)
	for _, value := range [][]byte{nil, {}, []byte("garbage"), framed(t, good)[:40], append(framed(t, good), 0), schemas.AppendConfluent(nil, 7),
		append(schemas.AppendSingleObject(nil, [8]byte{1}), "x"...)} {
		w.write("booking", "acme/B-0", nil, value)
	}
	for _, edit := range []func(*schemas.BookingEvent){
		func(e *schemas.BookingEvent) { e.Meta.EventType = "customer.creation" }, func(e *schemas.BookingEvent) { e.Meta.EventType = "booking.moved" },
		func(e *schemas.BookingEvent) { e.Meta.CompanyID = "" }, func(e *schemas.BookingEvent) { e.Meta.EntityID = strings.Repeat("x", 256) },
	} {
		w.booking("booking.creation", "acme", "B-0", 9, edit)
	}
	w.booking("booking.amendment", "acme", "B-0", 2)
	s, _ := w.start()
	if got := w.fresh(s, "acme", 0); !slices.Equal(got.ids(), []string{"B-0 v2 CONFIRMED"}) {
		t.Errorf("%v", got.ids())
	}
	counted := w.counted("hookferry_recent_skipped_total")
	for reason, n := range map[string]float64{skipNoRegistry: 1, skipUnknownSchema: 1, skipWrongType: 2, skipBadMeta: 2} {
		if counted[reason] != n {
			t.Errorf("%v were counted as %s, want %v", counted[reason], reason, n)
		}
	}
	if s.bookings.skipped != 11 {
		t.Errorf("%d skipped, want 11: %v", s.bookings.skipped, counted)
	}
}

// A booking as large as an event may be costs a line, and texts of any kind do not spoil the document or the event.
func TestABookingOfAnySizeAndTextIsOneLine(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("ü\"\x01\u2028\\", 2000)
	company := "a\"/\\ \u2028<script>?company=b&"
	for i := range 20 {
		w.booking("booking.creation", company, fmt.Sprintf("B-%d\"\x02", i), 1, func(e *schemas.BookingEvent) {
			e.Data.Reference, e.Data.Channel.Name, e.Data.TimeZone, e.Data.Activities[0].Name = &long, &long, long, long
			e.Data.Customers[0].FirstName, e.Data.Notes = &long, new(strings.Repeat("n", 600_000))
		})
	}
	s, _ := w.start()
	got := w.fresh(s, company, Most)
	if len(got.Bookings) != 20 || got.CompanyID != company {
		t.Fatalf("%d bookings of %q", len(got.Bookings), got.CompanyID)
	}
	lines, _ := s.bookings.latest(company, Most)
	for _, l := range lines {
		if len(l) > 1200 {
			t.Errorf("a line has %d bytes", len(l))
		}
	}
	for _, b := range got.Bookings {
		if len(b.CustomerName) > longestName || strings.ContainsAny(b.CustomerName+b.Title, "\x01\x02") || !strings.HasPrefix(b.BookingID, "B-") {
			t.Errorf("%+v", b)
		}
	}
}

func TestWhatMayNotBeAskedIsRefusedWithItsCode(t *testing.T) {
	w := newWorld(t)
	s, _ := w.start()
	for query, code := range map[string]string{
		"": "company_missing", "company=": "company_missing", "company=%FF": "company_invalid", "company=*": "company_invalid",
		"company=" + strings.Repeat("x", 256): "company_invalid", "company=a&limit=0": "limit_invalid", "company=a&limit=501": "limit_invalid",
		"company=a&limit=-1": "limit_invalid", "company=a&limit=1e3": "limit_invalid", "company=a&limit=99999999999999999999": "limit_invalid",
		"company=a&company=b": "parameter_twice", "company=a&cursor=1": "parameter_unknown", "company=a;limit=2": "parameter_unknown",
		"company=a&subscription=%FF": "subscription_invalid", "company=a&id=" + strings.Repeat("x", 256): "id_invalid",
	} {
		for method, path := range map[string]string{http.MethodGet: pathRecent, http.MethodPost: pathSnapshots} {
			status, body := w.call(s, method, path, nil, func(r *http.Request) { r.URL.RawQuery = query })
			if status != http.StatusBadRequest || !strings.Contains(body, `"code":"`+code+`"`) {
				t.Errorf("%s %s: %d %s, want %s", method, query, status, body, code)
			}
		}
	}
	q := url.Values{"company": {"a"}}
	for name, c := range map[string]struct {
		edit   func(*http.Request)
		status int
	}{
		"as a program does":       {nil, http.StatusOK},
		"under localhost":         {func(r *http.Request) { r.Host = "localhost:1" }, http.StatusOK},
		"IPv6":                    {func(r *http.Request) { r.Host = "[::1]:1" }, http.StatusOK},
		"a name that was rebound": {func(r *http.Request) { r.Host = "evil.example:9465" }, http.StatusForbidden},
		"a page in a browser":     {func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, http.StatusForbidden},
	} {
		if status, body := w.call(s, http.MethodGet, pathRecent, q, c.edit); status != c.status {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, _ := w.call(s, http.MethodPost, pathRecent, q, nil); status != http.StatusMethodNotAllowed {
		t.Error(status)
	}
	guarded, _ := w.start(func(c *Config) { c.Token = token })
	for auth, want := range map[string]int{"": 401, "Bearer": 401, "Bearer wrong": 401, "Bearer " + token: 200, token: 401} {
		edit := func(r *http.Request) { r.Host = "recent.internal"; r.Header.Set("Authorization", auth) }
		if status, body := w.call(guarded, http.MethodGet, pathRecent, q, edit); status != want || strings.Contains(body, token) {
			t.Errorf("%q: %d %s", auth, status, body)
		}
	}
	if got := w.fresh(guarded, "a", 1); len(got.Bookings) != 0 {
		t.Error(got.ids())
	}
}

func TestAClientSaysWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	s, stop := w.start(func(c *Config) { c.Token = token })
	c := NewClient("http://"+s.Addr(), "another-token-here")
	defer c.Close()
	code := func(err error) string {
		var coded interface{ Code() string }
		errors.As(err, &coded)
		if coded == nil {
			return fmt.Sprint(err)
		}
		return coded.Code()
	}
	if _, err := c.Recent(w.ctx, Ask{Company: "a"}); code(err) != "denied" {
		t.Error(err)
	}
	if _, err := c.Recent(w.ctx, Ask{Company: "a", Limit: 501}); code(err) != "limit_invalid" {
		t.Error(err)
	}
	if _, err := NewClient("http://"+s.Addr()+"/elsewhere", token).Recent(w.ctx, Ask{Company: "a"}); code(err) != "answer_invalid" {
		t.Error(err)
	}
	stop()
	if _, err := c.Recent(w.ctx, Ask{Company: "a"}); code(err) != "recent_unreachable" {
		t.Error(err)
	}
}

// Two services, each asked under one id as often as one likes: one event. Another subscription or another id is another event.
func TestTwoServicesPublishASnapshotOnce(t *testing.T) {
	w := newWorld(t)
	for i := range 7 {
		w.booking("booking.creation", "acme", fmt.Sprint("B-", i), 1)
	}
	a, _ := w.start()
	b, stop := w.start()
	ask := Ask{Company: "acme", Subscription: "sub_1", Limit: 5, ID: "of the test"}
	var places []Place
	for i, s := range []*Service{a, b, a, b} {
		got, err := NewClient("http://"+s.Addr(), "").Snapshot(w.ctx, ask)
		w.must(err)
		if got.Repeated != (i > 0) || got.EntityID != "sub_1" {
			t.Errorf("%d: %+v", i, got)
		}
		places = append(places, got.Place)
	}
	if len(slices.Compact(places)) != 1 {
		t.Errorf("%v", places)
	}
	stop()
	c, _ := w.start()
	for _, other := range []Ask{ask, {Company: "acme", ID: ask.ID}, {Company: "acme", Subscription: "sub_1"}} {
		_, err := NewClient("http://"+c.Addr(), "").Snapshot(w.ctx, other)
		w.must(err)
	}
	got := w.snapshots()
	if len(got) != 3 {
		t.Fatalf("%d snapshots", len(got))
	}
	for _, ev := range got {
		m := &ev.Meta
		if m.EventType != schemas.RecentSnapshot || m.CompanyID != "acme" || m.CompanyName == "" || m.TenantID == "" || ev.Data.CompanyID != "acme" {
			t.Errorf("%+v", m)
		}
		if want := 7; m.EntityID == "acme" && len(ev.Data.Bookings) != want {
			t.Errorf("%d bookings", len(ev.Data.Bookings))
		}
	}
}

// The process that publishes dies before it has said so, or Kafka's answer is lost: who asks again finds the one snapshot that there is.
func TestASnapshotWhoseAnswerIsLostIsFoundAgain(t *testing.T) {
	w := newWorld(t)
	w.booking("booking.creation", "acme", "B-1", 1)
	s, _ := w.start()
	lost, published := 1, 0
	s.publisher.publish = func(ctx context.Context, ev schemas.Event) error {
		published++
		if err := w.publish(ctx, ev); err != nil || lost == 0 {
			return err
		}
		lost--
		return errors.New("no answer")
	}
	c := NewClient("http://"+s.Addr(), "")
	defer c.Close()
	got, err := c.Snapshot(w.ctx, Ask{Company: "acme", Subscription: "sub_1"})
	if err != nil || !got.Repeated || published != 1 || len(w.snapshots()) != 1 {
		t.Errorf("%+v, published %d times: %v", got, published, err)
	}
}

// What was acknowledged before a snapshot was asked for is in it, though the service has not read it yet.
func TestASnapshotHoldsAllThatWasAcknowledgedBefore(t *testing.T) {
	w := newWorld(t)
	s, _ := w.start()
	for i := range 30 {
		w.booking("booking.creation", "acme", fmt.Sprint("B-", i), 1)
		got, err := s.publisher.take(w.ctx, Ask{Company: "acme", Limit: Most})
		w.must(err)
		if got.Bookings != i+1 {
			t.Fatalf("%d bookings after %d", got.Bookings, i+1)
		}
	}
}

// Five hundred bookings of the longest texts do not fit into a body: the latest that do are sent, and it says so.
func TestASnapshotIsNeverTooLargeToBeSent(t *testing.T) {
	long := strings.Repeat("\"", 255)
	l := schemas.RecentBooking{BookingID: long, Reference: new(long[:64]), ChannelName: new(long[:64]), ExternalReference: new(long[:64]), LeadCustomerID: &long,
		CustomerName: new(long[:120]), Title: new(long[:120]), TimeZone: long[:64]}
	l.ChangedAt, l.OccurredAt = l.ChangedAt.AddDate(2000, 0, 0), l.OccurredAt.AddDate(2000, 0, 0)
	line, err := l.AppendAvro(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &Ask{Company: "c", Limit: Most}
	ev := a.event(slices.Repeat([][]byte{line}, Most), About{}, l.ChangedAt)
	avro, err := ev.AppendAvro(nil)
	if err != nil {
		t.Fatal(err)
	}
	var m schemas.Meta
	rest, err := snapshotReader().Meta(avro, &m)
	if err != nil {
		t.Fatal(err)
	}
	doc, _, err := snapshotReader().DataJSON(nil, rest)
	if n := len(ev.Data.Bookings); err != nil || !ev.Data.Truncated || n < 200 || len(doc) > mostBody {
		t.Errorf("%d bookings in %d bytes, truncated %v: %v", n, len(doc), ev.Data.Truncated, err)
	}
}

// A topic that is made anew has offsets of its own: what was known is forgotten.
func TestATopicThatIsMadeAnewIsReadAnew(t *testing.T) {
	w := newWorld(t)
	for i := range 8 {
		w.booking("booking.creation", "acme", fmt.Sprint("B-", i), 1)
	}
	s, _ := w.start()
	if got := w.fresh(s, "acme", 0); len(got.Bookings) != 8 {
		t.Fatal(got.ids())
	}
	topic := w.client.Topics().Events["booking"]
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.TopicNames = []string{topic}
	gone := kmsg.NewDeleteTopicsRequestTopic()
	gone.Topic = &topic
	del.Topics = append(del.Topics, gone)
	w.ask(del)
	create := kmsg.NewPtrCreateTopicsRequest()
	one := kmsg.NewCreateTopicsRequestTopic()
	one.Topic, one.NumPartitions, one.ReplicationFactor = topic, int32(w.config.Partitions), 1
	create.Topics = append(create.Topics, one)
	w.ask(create)
	w.booking("booking.creation", "acme", "B-new", 1)
	w.until("only the new booking is there", func() bool {
		lines, _ := s.bookings.latest("acme", 10)
		return len(lines) == 1
	})
	if got := w.fresh(s, "acme", 0); !slices.Equal(got.ids(), []string{"B-new v1 CONFIRMED"}) {
		t.Error(got.ids())
	}
}

// What retention has taken is not answered any more, neither by a process that has read it nor by one that starts later.
func TestWhatRetentionTookIsGone(t *testing.T) {
	w := newWorld(t)
	w.booking("booking.creation", "acme", "B-1", 1)
	s, _ := w.start()
	w.booking("booking.creation", "acme", "B-2", 1)
	if got := w.fresh(s, "acme", 0); len(got.Bookings) != 2 {
		t.Fatal(got.ids())
	}
	del := w.deletion("acme/B-1")
	p := del.Topics[0].Partitions[0]
	w.ask(del)
	w.must(s.bookings.trim(w.ctx))
	later, _ := w.start()
	for _, s := range []*Service{s, later} {
		if got := w.fresh(s, "acme", 0); !slices.Equal(got.ids(), []string{"B-2 v1 CONFIRMED"}) {
			t.Error(got.ids())
		}
	}
	// The next batch of a partition says where it begins; nobody has to ask.
	neighbour := 3
	for kafka.Partition(fmt.Appendf(nil, "acme/B-%d", neighbour), w.config.Partitions) != p.Partition {
		neighbour++
	}
	w.booking("booking.creation", "acme", fmt.Sprint("B-", neighbour), 1)
	w.fresh(s, "acme", 0)
	del.Topics[0].Partitions[0].Offset = 2
	w.ask(del)
	w.booking("booking.amendment", "acme", fmt.Sprint("B-", neighbour), 0)
	if got := w.fresh(s, "acme", 0); !slices.Equal(got.ids(), []string{fmt.Sprintf("B-%d v0 CONFIRMED", neighbour), "B-2 v1 CONFIRMED"}) {
		t.Errorf("version 1 is past retention: %v", got.ids())
	}
}

// deletion asks to take the first record out of the partition of a key, as retention does.
func (w *world) deletion(key string) *kmsg.DeleteRecordsRequest {
	del, one := kmsg.NewPtrDeleteRecordsRequest(), kmsg.NewDeleteRecordsRequestTopic()
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	one.Topic, p.Partition, p.Offset = w.client.Topics().Events["booking"], kafka.Partition([]byte(key), w.config.Partitions), 1
	one.Partitions = append(one.Partitions, p)
	del.Topics = append(del.Topics, one)
	return del
}

// A service that starts as retention empties a partition, between the question where it ends and the first reading, is loaded all the same.
func TestAPartitionThatRetentionEmptiesAtTheStartIsRead(t *testing.T) {
	w := newWorld(t)
	w.booking("booking.creation", "acme", "B-1", 1)
	cluster := w.broker.Cluster()
	cluster.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.DropControl()
		cluster.SleepControl(func() { w.ask(w.deletion("acme/B-1")) })
		return nil, nil, false
	})
	s, _ := w.start()
	if got := w.fresh(s, "acme", 0); len(got.Bookings) != 0 {
		t.Error(got.ids())
	}
}

// Who asks a service that is still reading is told to come again.
func TestAServiceThatStillReadsSaysSo(t *testing.T) {
	w := newWorld(t)
	s, err := New(Config{Listen: "127.0.0.1:0"}, Deps{Kafka: w.client, Publish: w.publish})
	w.must(err)
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "not been found") {
		t.Error(err)
	}
	s.bookings.next, s.bookings.first = []int64{3, 0}, []int64{10, 5}
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "about 12 events are left") {
		t.Error(err)
	}
	_, err = s.recent(&http.Request{URL: &url.URL{RawQuery: "company=a"}})
	if status, doc := errorDoc(err); status != http.StatusServiceUnavailable || !strings.Contains(string(doc), "recent_loading") {
		t.Errorf("%d %s", status, doc)
	}
	if _, err := New(Config{}, Deps{Kafka: w.client}); err == nil {
		t.Error("a service without a listener was made")
	}
}

func TestAwaitRoutedWaitsForTheGroup(t *testing.T) {
	w := newWorld(t)
	at := Place{Topic: w.client.Topics().Events["recent_reservations"], Partition: 1, Offset: 3}
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- AwaitRouted(ctx, w.client, "t.g", at) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
