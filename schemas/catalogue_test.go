package schemas_test

import (
	"encoding/json"
	"testing"

	"github.com/hookferry/hookferry/schemas"
)

// The ids are the interface of receivers that exist already; this table is their only other copy.
func TestTheCatalogueIsComplete(t *testing.T) {
	want := []struct {
		name          string
		group, typ    int
		v1, data, key string
	}{
		{"booking.creation", 100, 100, "Booking Creation", "Booking", "booking"}, {"booking.amendment", 100, 101, "Booking Amendment", "Booking", "booking"}, {"booking.cancellation", 100, 102, "Booking Cancellation", "Booking", "booking"},
		{"customer.creation", 200, 200, "Customer Creation", "Customer", "customer"}, {"customer.amendment", 200, 201, "Customer Amendment", "Customer", "customer"}, {"customer.removal", 200, 202, "Customer Removal", "Customer", "customer"},
		{"check_in.recorded", 700, 700, "Activity Check-in", "CheckIn", "checkinData"},
		{"account.creation", 300, 300, "Account Creation", "Account", "account"}, {"account.amendment", 300, 301, "Account Amendment", "Account", "account"}, {"account.removal", 300, 302, "Account Removal", "Account", "account"},
		{"contact.creation", 400, 400, "Contact Creation", "Contact", "contact"}, {"contact.amendment", 400, 401, "Contact Amendment", "Contact", "contact"}, {"contact.removal", 400, 402, "Contact Removal", "Contact", "contact"},
		{"employee.creation", 500, 500, "Employee Creation", "Employee", "employee"}, {"employee.amendment", 500, 501, "Employee Amendment", "Employee", "employee"}, {"employee.removal", 500, 502, "Employee Removal", "Employee", "employee"},
		{"package.creation", 800, 800, "Package Created", "Package", "packageData"}, {"package.amendment", 800, 801, "Package Amendment", "Package", "packageData"}, {"package.removal", 800, 802, "Package Removal", "Package", "packageData"},
		{"activity.creation", 900, 900, "Activity Created", "Activity", "activityData"}, {"activity.amendment", 900, 901, "Activity Amendment", "Activity", "activityData"}, {"activity.removal", 900, 902, "Activity Removal", "Activity", "activityData"},
		{"product.creation", 1000, 1000, "Product Created", "Product", "productData"}, {"product.amendment", 1000, 1001, "Product Amendment", "Product", "productData"}, {"product.removal", 1000, 1002, "Product Removal", "Product", "productData"},
		{"inventory.change", 600, 600, "Inventory Updated", "InventoryChange", "inventoryData"},
	}
	got := schemas.EventTypes()
	if len(got) != len(want) {
		t.Fatalf("%d types, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if g.Name != w.name || g.GroupID != w.group || g.TypeID != w.typ || g.V1Text != w.v1 || g.DataRecord != w.data || g.DataKey != w.key || g.Name != g.Entity+"."+g.Trigger {
			t.Errorf("type %d: got %+v, want %+v", i, g, w)
		}
		if byName, ok := schemas.EventTypeByName(w.name); !ok || byName != g {
			t.Errorf("%s is not found by name", w.name)
		}
	}
	if _, ok := schemas.EventTypeByName("booking.removal"); ok {
		t.Error("booking.removal is not in the catalogue")
	}
}

func TestEverySchemaIsWhatTheCatalogueSays(t *testing.T) {
	seen := map[[8]byte]string{}
	for _, et := range schemas.AllEventTypes() {
		var root struct {
			Name   string
			Fields []struct {
				Name string
				Type any
			}
		}
		if err := json.Unmarshal([]byte(schemas.EventSchemaText(et.Entity)), &root); err != nil {
			t.Fatal(err)
		}
		data, _ := root.Fields[1].Type.(map[string]any)
		if root.Name != et.Record || data["name"] != et.DataRecord {
			t.Errorf("%s: the schema is %s of %v, the catalogue says %s of %s", et.Name, root.Name, data["name"], et.Record, et.DataRecord)
		}
		found := false
		for _, f := range data["fields"].([]any) {
			m := f.(map[string]any)
			found = found || m["name"] == schemas.EntityIDField(et.Entity) && m["type"] == "string"
		}
		if !found {
			t.Errorf("%s: data has no %q", et.Entity, schemas.EntityIDField(et.Entity))
		}
		fp := schemas.EventSchema(et.Entity).Fingerprint()
		if other, ok := seen[fp]; ok && other != et.Entity {
			t.Errorf("%s and %s have one fingerprint", other, et.Entity)
		}
		seen[fp] = et.Entity
		if s, ok := schemas.CompiledIn(fp); !ok || s.Text() != schemas.EventSchemaText(et.Entity) {
			t.Errorf("%s: not compiled in", et.Entity)
		}
		if ev := schemas.NewEvent(et.Entity); ev == nil || ev.EntityName() != et.Entity {
			t.Errorf("%s: NewEvent", et.Entity)
		}
	}
	if _, ok := schemas.CompiledIn([8]byte{1}); ok {
		t.Error("an unknown fingerprint was found")
	}
}
