package producer_test

import (
	"context"
	"errors"
	"log"
	"time"

	"github.com/hookferry/hookferry/producer"
	"github.com/hookferry/hookferry/schemas"
)

// A service publishes that one of its products has a new price. It needs a broker, so it is compiled here and not run.
func Example() {
	ctx := context.Background()
	cfg := producer.DefaultConfig()
	cfg.Brokers = []string{"kafka-1:9092"}
	p, err := producer.New(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close(ctx)

	before := schemas.Product{ProductID: "812", Name: "Dry Bag", Status: schemas.CatalogStatusActive, ListPrice: &schemas.Money{Amount: schemas.Cents(2490), Currency: "EUR"}}
	after := before
	after.ListPrice = &schemas.Money{Amount: schemas.Cents(2690), Currency: "EUR"}
	event := &schemas.ProductEvent{
		Meta: schemas.EventMeta{
			EventID:   "evt_0190f1c27a5b4f0d8e11d5a0c3b7e9f2aa01bb02", // made once per change, and stored with it
			EventType: "product.amendment", EntityID: "812", EntityVersion: 7, OccurredAt: time.Now(),
			TenantID: "harbour", CompanyID: "a1b2c3d4", CompanyName: "Harbour Light Tours",
			Changes: []schemas.FieldChange{{Path: "/listPrice/amount", Before: new(`"24.900000"`), After: new(`"26.900000"`)}},
		},
		Data: after, Previous: &before,
	}

	err = p.Publish(ctx, event)
	var failed *producer.Error
	if errors.As(err, &failed) {
		for _, e := range failed.Events {
			switch {
			case errors.Is(e, producer.ErrUnknown):
				log.Printf("publish %s again, with the same id: %v", e.EventID, e)
			case e.Retry:
				log.Printf("surely not published; try again: %v", e)
			default:
				log.Printf("the event is at fault: %v", e)
			}
		}
	}
}
