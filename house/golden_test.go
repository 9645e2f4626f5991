package house

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hookferry/hookferry/internal/kafka"
	"github.com/hookferry/hookferry/internal/sandbox"
	"github.com/hookferry/hookferry/internal/subscriptions"
	"github.com/hookferry/hookferry/schemas"
)

// The golden events, as they lie in the router's testdata, through a whole deployment: what a receiver gets is the golden body, byte for byte. The router's
// own test says that it builds these bodies; this one that nothing on the way from there to the wire touches them.
func TestGoldenEventsArriveAsTheirGoldenBodies(t *testing.T) {
	t.Parallel()
	const dir, company = "../router/testdata", "c_harbor" // whose events the golden ones are
	d := deploy(t)
	d.router()
	d.deliverer()
	formats := []string{"standard", "cloudevents", "classic"}
	for _, f := range formats {
		d.subscribe(company, "/ok/"+f, func(dr *subscriptions.Draft) {
			if dr.Format = f; f == "classic" {
				dr.Name = "golden" // it stands in the body
			}
		})
	}
	// Their bytes as they are, and not as today's producer would write them.
	var records kafka.Records
	for _, et := range schemas.EventTypes() {
		value, err := os.ReadFile(filepath.Join(dir, et.Name+".avro"))
		d.must(err)
		_, avro, err := schemas.Unframe(value)
		d.must(err)
		ev := schemas.NewEvent(et.Entity)
		d.must(ev.DecodeAvro(avro))
		m := ev.EventMeta()
		key := []byte(m.CompanyID + "/" + m.EntityID)
		records.Add(kafka.TP{Topic: d.kafka.Topics().Events[et.Entity], Partition: kafka.Partition(key, d.config.Partitions)}, key, nil, value)
	}
	_, err := d.kafka.NewAppender(kafka.AppenderConfig{}).Append(d.ctx, &records)
	d.must(err)
	for _, f := range formats {
		path, types := "/ok/"+f, len(schemas.EventTypes())
		d.must(d.receiver.Wait(d.ctx, func([]*sandbox.Received) bool { return len(d.at(path)) >= types }))
		// By their bodies: several golden events have the same id, and so the same webhook-id.
		golden := map[string]string{}
		for _, et := range schemas.EventTypes() {
			want, err := os.ReadFile(filepath.Join(dir, et.Name+"."+f+".json"))
			d.must(err)
			golden[string(want)] = et.Name
		}
		for _, r := range d.at(path) {
			if golden[string(r.Body)] == "" {
				t.Errorf("%s: no golden body:\n%s", f, r.Body)
			}
			if delete(golden, string(r.Body)); r.Signature != nil {
				t.Errorf("%s: %v", f, r.Signature)
			}
		}
		for _, typ := range golden {
			t.Errorf("%s %s: its golden body did not arrive", typ, f)
		}
	}
}
