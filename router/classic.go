package router

import (
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the raw form writes local times, and a static image has no time zones of its own

	"github.com/hookferry/hookferry/schemas"
)

// The classic format is the platform's own envelope for receivers that exist already: flat eventNotification* fields beside eventData, which holds
// one key, with the habits of the raw data. docs/formats.md lists them; in short: an empty value is {}, a list is one holder with an object when
// there is one element and an array when there are more, numbers and most booleans are text, money is text with a dollar sign whatever the currency,
// times are local to the supplier and without a zone. It is lossy by nature: what the raw form has no field for is left out.
//
// It works on the JSON of data, not on Avro, so that a publisher with a newer schema is no other case than one with ours.

// classicRenderer keeps what it needs from event to event.
type classicRenderer struct {
	tree  tree
	zones map[string]*time.Location // by IANA name; UTC for one that there is not
	zone  *time.Location            // of the event
	w     rawWriter
}

// append writes the envelope in two parts: the subscription's name, as JSON text, belongs between them.
func (c *classicRenderer) append(head, tail []byte, r *renderer) (h, t []byte, err error) {
	if err := c.tree.parse(r.data); err != nil {
		return head, tail, err
	}
	data := c.tree.root()
	c.zone = c.location(data.get("timeZone").plain())
	m := r.meta
	head = append(head, `{"eventNotificationUniqueId":`...)
	head = appendString(head, m.EventID)
	head = append(head, `,"eventNotificationCompanyName":`...)
	head = appendString(head, m.CompanyName)
	head = append(head, `,"eventNotificationUniqueIdentifier":`...)
	head = appendString(head, m.CompanyID)
	head = append(head, `,"eventNotificationGroupId":`...)
	head = strconv.AppendInt(head, int64(r.typ.GroupID), 10)
	head = append(head, `,"eventNotificationTypeId":`...)
	head = strconv.AppendInt(head, int64(r.typ.TypeID), 10)
	head = append(head, `,"eventNotificationType":"`...)
	head = append(head, r.typ.V1Text...)
	head = append(head, `","eventNotificationTypeV2":"`...)
	head = append(head, r.typ.Name...)
	head = append(head, `","eventNotificationDateTime":"`...)
	head = time.UnixMilli(m.OccurredAt).In(c.zone).AppendFormat(head, "2006-01-02T15:04:05-07:00")
	head = append(head, `","eventNotificationName":`...)

	tail = append(tail, `,"eventNotificationSystem":`...)
	tail = appendOptional(tail, m.TenantID)
	tail = append(tail, `,"eventNotificationSystemUrl":`...)
	tail = appendOptional(tail, m.SystemURL)
	tail = append(tail, `,"eventMarketplaceData":`...)
	if tail, err = r.reader.MarketplaceJSON(tail, m); err != nil {
		return head, tail, err
	}
	tail = append(tail, `,"eventData":{"`...)
	tail = append(tail, r.typ.DataKey...)
	tail = append(tail, `":`...)
	c.w.b = tail
	if r.typ.Internal { // the platform has no raw form of it, so ours stands as it is
		c.w.b = append(c.w.b, r.data...)
	} else {
		c.entity(r.typ, data)
	}
	return head, append(c.w.b, '}', '}'), nil
}

func appendOptional(b, s []byte) []byte {
	if len(s) == 0 {
		return append(b, '{', '}')
	}
	return appendString(b, s)
}

// What publishers can make us remember is bounded: there are some 600 names, and the longest has 32 letters.
const (
	maxZones    = 2000
	maxZoneName = 64
)

func (c *classicRenderer) location(name string) *time.Location {
	if name == "" || len(name) > maxZoneName {
		return time.UTC
	}
	if l, ok := c.zones[name]; ok {
		return l
	}
	if c.zones == nil || len(c.zones) >= maxZones {
		c.zones = map[string]*time.Location{}
	}
	l, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		l = time.UTC
	}
	c.zones[strings.Clone(name)] = l
	return l
}

// entity writes the one value within eventData.
func (c *classicRenderer) entity(typ *schemas.EventType, data value) {
	switch typ.Entity {
	case "booking":
		c.booking(data)
	case "customer":
		c.customer(data)
	case "account":
		c.account(data)
	case "contact":
		c.contact(data)
	case "employee":
		c.employee(data)
	case "check_in":
		c.checkIn(data)
	case "package":
		c.pair("packageId", data.get("packageId"), "packageName", data.get("name"))
	case "product":
		c.pair("productId", data.get("productId"), "productName", data.get("name"))
	case "activity":
		c.activity(data)
	case "inventory":
		c.inventory(data)
	default:
		panic("BUG: an entity without a classic form: " + typ.Entity)
	}
}

func (c *classicRenderer) pair(k1 string, v1 value, k2 string, v2 value) {
	w := &c.w
	w.open('{')
	w.text(k1, v1)
	w.text(k2, v2)
	w.close('}')
}

func (c *classicRenderer) booking(d value) {
	w := &c.w
	w.open('{')
	w.key("activities")
	c.oneOrMany("activity", d.get("activities"), func(v value) { c.line(v, true) })
	w.text("bookingId", d.get("bookingId"))
	w.raw("isBookingCancelled", strconv.FormatBool(d.get("status").plain() == "CANCELLED"))
	w.plain("bookingSaleDateTime", c.local(d.get("soldAt")))
	closed := c.local(d.get("closedAt"))
	if closed == "" {
		closed = "0000-00-00 00:00:00"
	}
	w.plain("bookingCloseDateTime", closed)
	w.key("bookingRevenue")
	w.open('{')
	totals := d.get("totals")
	sums := [...]struct{ name, field string }{{"bookingSubTotal", "subTotal"}, {"bookingTax", "tax"}, {"bookingTotal", "total"}}
	for _, s := range sums {
		w.plain(s.name, shortDecimal(amount(totals.get(s.field))))
	}
	for _, s := range sums {
		w.plain(s.name+"_formated", formatted(totals.get(s.field)))
	}
	w.close('}')
	w.key("customers")
	c.oneOrMany("customer", d.get("customers"), c.customer)
	w.key("products")
	w.empty()
	w.close('}')
}

// line is one booked activity. In a check-in (full is false) it has neither taxes nor the two newer prices, and its booleans are text.
func (c *classicRenderer) line(d value, full bool) {
	w := &c.w
	rental := d.get("rental")
	w.open('{')
	w.text("activityId", d.get("activityId"))
	w.text("activityName", d.get("name"))
	w.plain("activityType", words(d.get("kind").plain()))
	w.plain("activityStatus", words(d.get("status").plain()))
	w.plain("activityDate", longDate(d.get("localDate").plain()))
	w.plain("activityTime", clock(d.get("startTime").plain(), "00:00:00"))
	w.flag("activityIsRental", d.get("kind").plain() == "RENTAL" || rental.kind() == object, !full)
	w.flag("activityIsMultidayRental", rental.get("multiDay").isTrue(), !full)
	w.plain("activityRentalDuration_Hours", hours(rental.get("durationMinutes").int()))
	w.plain("activityRentalStartDateTime", c.local(rental.get("startAt")))
	w.plain("activityRentalEndDateTime", c.local(rental.get("endAt")))
	w.plain("activitySubTotal", formatted(d.get("subTotal")))
	w.plain("activityTax", formatted(d.get("tax")))
	if full {
		w.plain("activityBaseRate", formatted(d.get("baseRate")))
		w.plain("activityDynamicPrice", formatted(d.get("dynamicPrice")))
	}
	w.text("activityAccountingCode", d.get("accountingCode"))
	w.text("activityNotes", d.get("notes"))
	w.text("freeEditField", d.get("freeText"))
	equipment := value{}
	rental.get("equipmentAssignmentIds").each(func(v value) {
		if equipment.kind() == absent {
			equipment = v
		}
	})
	w.textOr("equipmentAssignmentId", equipment, "0")
	w.textOr("packageId", d.get("packageId"), "0")
	c.passengers(d)
	w.key("pricingOptions")
	w.empty()
	if full {
		w.key("taxes")
		w.empty()
	}
	w.close('}')
}

// The five categories of the raw form, and their names in our model.
var categories = [...]struct{ raw, symbol string }{
	{"adults", "ADULT"}, {"children", "CHILD"}, {"infants", "INFANT"}, {"seniors", "SENIOR"}, {"students", "STUDENT"},
}

// passengers writes counts and prices of a line. A category that occurs twice (with two labels) is summed, and its first price stands; the raw form
// has no place for OTHER.
func (c *classicRenderer) passengers(d value) {
	w := &c.w
	var counts [len(categories)]int64
	var prices, fees [len(categories)]value
	d.get("passengers").each(func(p value) {
		symbol := p.get("category").plain()
		for i := range categories {
			if categories[i].symbol != symbol {
				continue
			}
			counts[i] += p.get("count").int()
			if prices[i].kind() == absent {
				prices[i], fees[i] = p.get("unitPrice"), p.get("surplusFee")
			}
		}
	})
	w.key("passengers")
	w.open('{')
	for i := range categories {
		w.plain(categories[i].raw, strconv.FormatInt(counts[i], 10))
	}
	w.close('}')
	w.key("priceCodeDetails")
	w.open('{')
	w.text("priceCodeId", d.get("priceCodeId"))
	for i := range categories {
		w.plain(categories[i].raw+"Price", sixPlaces(amount(prices[i])))
	}
	for i := range categories {
		w.plain(categories[i].raw+"SurplusFee", sixPlaces(amount(fees[i])))
	}
	w.close('}')
}

func (c *classicRenderer) customer(d value) {
	w, phones := &c.w, d.get("phones")
	w.open('{')
	w.text("customerId", d.get("customerId"))
	w.text("firstName", d.get("firstName"))
	w.text("lastName", d.get("lastName"))
	w.textOr("birthDate", d.get("birthDate"), "N/A")
	w.text("homePhone", phone(phones, "HOME"))
	w.text("mobilePhone", phone(phones, "MOBILE"))
	w.text("email", d.get("email"))
	c.address(d.get("address"))
	w.text("username", d.get("username"))
	w.flag("newsLetterOptIn", d.get("newsletterOptIn").isTrue(), true)
	w.flag("loyaltyProgramOptIn", d.get("loyaltyProgramOptIn").isTrue(), true)
	w.flag("allowsPrivateDataSharing", d.get("dataSharingConsent").isTrue(), true)
	w.close('}')
}

func (c *classicRenderer) address(a value) {
	w := &c.w
	w.text("addressLine1", a.get("line1"))
	w.text("addressLine2", a.get("line2"))
	w.text("city", a.get("city"))
	w.text("state", a.get("region"))
	w.text("zipCode", a.get("postalCode"))
	w.text("country", a.get("country"))
}

func (c *classicRenderer) account(d value) {
	w, phones, address, group := &c.w, d.get("phones"), d.get("address"), d.get("group")
	w.open('{')
	w.text("accountId", d.get("accountId"))
	w.text("accountName", d.get("name"))
	w.textOr("accountGroupId", group.get("id"), "0")
	w.text("accountGroupName", group.get("name"))
	w.text("accountType", d.get("typeLabel"))
	if label := d.get("rateLabel"); !label.empty() {
		w.text("accountRateType", label)
	} else {
		w.plain("accountRateType", words(d.get("rateKind").plain()))
	}
	w.plain("annaulRevenue", optional(amount(d.get("annualRevenue")), sixPlaces))
	w.text("businessNumber", d.get("businessNumber"))
	w.text("description", d.get("description"))
	w.text("email", d.get("email"))
	w.number("employees", d.get("employeeCount"))
	w.text("fax", phone(phones, "FAX"))
	w.text("industry", d.get("industry"))
	w.text("manager", d.get("managerName"))
	w.textOr("otherPhone", phone(phones, "OTHER"), "N/A")
	main := phone(phones, "OFFICE")
	for _, kind := range [...]string{"MOBILE", "HOME", "UNKNOWN"} {
		if main.empty() {
			main = phone(phones, kind)
		}
	}
	w.text("phone", main)
	w.text("primaryAddress", address.get("line1"))
	w.text("primaryCity", address.get("city"))
	w.text("primaryState", address.get("region"))
	w.text("primaryZip", address.get("postalCode"))
	w.text("primaryCountry", address.get("country"))
	w.text("website", d.get("website"))
	w.close('}')
}

func (c *classicRenderer) contact(d value) {
	w := &c.w
	w.open('{')
	w.text("contactId", d.get("contactId"))
	c.person(d)
	w.close('}')
}

func (c *classicRenderer) employee(d value) {
	w := &c.w
	w.open('{')
	w.text("employeeId", d.get("employeeId"))
	if label := d.get("roleLabel"); !label.empty() {
		w.text("employeeType", label)
	} else {
		w.plain("employeeType", words(d.get("role").plain()))
	}
	c.person(d)
	w.close('}')
}

// person is what contacts and employees have in common.
func (c *classicRenderer) person(d value) {
	w, phones := &c.w, d.get("phones")
	w.text("accountId", d.get("account").get("id"))
	w.text("accountName", d.get("account").get("name"))
	w.text("firstName", d.get("firstName"))
	w.text("lastName", d.get("lastName"))
	w.text("title", d.get("title"))
	w.text("department", d.get("department"))
	w.textOr("birthDate", d.get("birthDate"), "N/A")
	w.text("email", d.get("email"))
	w.text("officePhone", phone(phones, "OFFICE"))
	w.text("homePhone", phone(phones, "HOME"))
	w.text("mobilePhone", phone(phones, "MOBILE"))
	w.text("fax", phone(phones, "FAX"))
	c.address(d.get("address"))
	w.text("username", d.get("username"))
}

func (c *classicRenderer) checkIn(d value) {
	w, by := &c.w, d.get("performedBy")
	w.open('{')
	w.key("activities")
	if line := d.get("activity"); line.kind() == object {
		w.open('{')
		w.key("activity")
		c.line(line, false)
		w.close('}')
	} else {
		w.empty()
	}
	w.text("bookingId", d.get("bookingId"))
	w.text("checkedIn_activityId", d.get("activityId"))
	w.text("checkedIn_activityName", d.get("activityName"))
	w.plain("checkedIn_activityDate", d.get("localDate").plain())
	w.plain("checkedIn_activityTime", hourMinute(d.get("startTime").plain()))
	w.flag("checkedIn_checkInCurrentStatus", d.get("status").plain() == "CHECKED_IN", true)
	w.text("checkedIn_guestId", d.get("guestId"))
	w.text("checkedIn_message", d.get("message"))
	w.text("checkedIn_systemUserId", by.get("id"))
	w.text("checkedIn_systemUserIp", by.get("ipAddress"))
	w.text("checkedIn_systemUsername", by.get("displayName"))
	w.key("customers")
	c.oneOrMany("customer", d.get("customers"), c.customer)
	w.close('}')
}

func (c *classicRenderer) activity(d value) {
	w := &c.w
	image := value{}
	d.get("images").each(func(v value) {
		if image.kind() == absent {
			image = v.get("url")
		}
	})
	w.open('{')
	w.text("activityId", d.get("activityId"))
	w.text("activityName", d.get("name"))
	w.text("activityShortDescription", d.get("shortDescription"))
	w.text("activityDescription", d.get("description"))
	w.text("activityAdditionalInfo", d.get("additionalInfo"))
	w.text("activityImageURL", image)
	w.plain("activityPricePerPax", optional(amount(d.get("pricePerPassenger")), sixPlaces))
	w.close('}')
}

// inventory is the exception to the habits: its activity id is a number, its list a real array, and booked a number beside availability as text.
func (c *classicRenderer) inventory(d value) {
	w := &c.w
	w.open('{')
	if id := d.get("activityId").plain(); isNumber(id) {
		w.raw("activityId", id)
	} else {
		w.text("activityId", d.get("activityId"))
	}
	w.text("activityName", d.get("activityName"))
	w.key("changedDateRange")
	w.open('{')
	w.plain("startDate", d.get("rangeStart").plain())
	w.plain("endDate", d.get("rangeEnd").plain())
	w.close('}')
	w.key("newInventory")
	w.open('[')
	d.get("slots").each(func(s value) {
		w.element()
		w.open('{')
		w.number("availability", s.get("available"))
		w.raw("booked", strconv.FormatInt(s.get("booked").int(), 10))
		w.plain("date", s.get("localDate").plain())
		w.plain("departureTime", clock(s.get("departureTime").plain(), "00:00:00"))
		w.plain("status", slotStatus(s.get("status").plain()))
		w.close('}')
	})
	w.close(']')
	w.close('}')
}

// slotStatus has the three values of the raw form, spelt right. Limited and free sale are available; a closed slot is as good as sold out.
func slotStatus(symbol string) string {
	switch symbol {
	case "AVAILABLE", "LIMITED", "FREE_SALE":
		return "AVAILABLE"
	case "SOLD_OUT", "CLOSED":
		return "SOLD_OUT"
	case "CANCELLED":
		return "CANCELLED"
	}
	return ""
}

// oneOrMany writes a list as the raw form does: {} for none, an object for one, an array for more.
func (c *classicRenderer) oneOrMany(name string, list value, each func(value)) {
	w, n := &c.w, list.len()
	if n == 0 {
		w.empty()
		return
	}
	w.open('{')
	w.key(name)
	if n > 1 {
		w.open('[')
	}
	list.each(func(v value) {
		if n > 1 {
			w.element()
		}
		each(v)
	})
	if n > 1 {
		w.close(']')
	}
	w.close('}')
}

// local is a timestamp in the supplier's zone, as the raw form writes it; empty if there is none.
func (c *classicRenderer) local(v value) string {
	t, err := time.Parse(time.RFC3339, v.plain())
	if err != nil {
		return ""
	}
	return t.In(c.zone).Format("2006-01-02 15:04:05")
}

// phone is the first number of a kind.
func phone(phones value, kind string) (found value) {
	phones.each(func(p value) {
		if found.kind() == absent && p.get("kind").plain() == kind {
			found = p.get("raw")
		}
	})
	return found
}

// amount is the decimal text of a Money, empty without one.
func amount(money value) string { return money.get("amount").plain() }

// optional renders a value that is there.
func optional(s string, render func(string) string) string {
	if s == "" {
		return ""
	}
	return render(s)
}

// sixPlaces writes a decimal with six places; none is zero.
func sixPlaces(decimal string) string {
	whole, fraction, _ := strings.Cut(decimal, ".")
	if whole == "" {
		whole = "0"
	}
	return whole + "." + (fraction + "000000")[:max(6, len(fraction))]
}

// shortDecimal writes a decimal without zeros at the end; none is zero.
func shortDecimal(decimal string) string {
	if !strings.Contains(decimal, ".") {
		if decimal == "" {
			return "0"
		}
		return decimal
	}
	return strings.TrimSuffix(strings.TrimRight(decimal, "0"), ".")
}

// formatted writes a Money as "$1,250.00": two places, rounded half away from zero, thousands commas. The sign is a dollar for every currency,
// because that is all the raw form has; it says nothing about the currency.
func formatted(money value) string {
	whole, fraction, _ := strings.Cut(amount(money), ".")
	if whole == "" {
		return ""
	}
	negative := whole[0] == '-'
	whole = strings.TrimPrefix(whole, "-")
	units, err := strconv.ParseInt(whole+(fraction + "000")[:3], 10, 64)
	if err != nil {
		return ""
	}
	cents := (units + 5) / 10
	b := make([]byte, 0, 24)
	if negative && cents > 0 {
		b = append(b, '-')
	}
	b = append(b, '$')
	digits := strconv.FormatInt(cents/100, 10)
	for i := range len(digits) {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b = append(b, ',')
		}
		b = append(b, digits[i])
	}
	return string(append2(append(b, '.'), int(cents%100)))
}

// longDate turns 2026-03-03 into "Tuesday March 03 2026".
func longDate(iso string) string {
	t, err := time.Parse(time.DateOnly, iso)
	if err != nil {
		return ""
	}
	return t.Format("Monday January 02 2006")
}

// clock cuts 14:30:00.000 to 14:30:00.
func clock(t, none string) string {
	if len(t) < 8 {
		return none
	}
	return t[:8]
}

func hourMinute(t string) string {
	if len(t) < 5 {
		return ""
	}
	return t[:5]
}

// hours writes minutes as decimal hours with the 14 digits that the platform shows.
func hours(minutes int64) string {
	return strconv.FormatFloat(float64(minutes)/60, 'g', 14, 64)
}

// words turns POINT_TO_POINT into "Point To Point"; UNKNOWN is nothing.
func words(symbol string) string {
	if symbol == "" || symbol == "UNKNOWN" {
		return ""
	}
	b := []byte(strings.ToLower(symbol))
	up := true
	for i, c := range b {
		if c == '_' {
			b[i] = ' '
		} else if up && c >= 'a' && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
		up = c == '_'
	}
	return string(b)
}

func isNumber(s string) bool {
	if s == "" || len(s) > 15 || len(s) > 1 && s[0] == '0' {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// rawWriter writes JSON in the raw form's habits. It knows from the byte before whether a comma is due.
type rawWriter struct{ b []byte }

func (w *rawWriter) comma() {
	if last := w.b[len(w.b)-1]; last != '{' && last != '[' {
		w.b = append(w.b, ',')
	}
}

func (w *rawWriter) open(c byte)  { w.b = append(w.b, c) }
func (w *rawWriter) close(c byte) { w.b = append(w.b, c) }
func (w *rawWriter) empty()       { w.b = append(w.b, '{', '}') }
func (w *rawWriter) element()     { w.comma() }

func (w *rawWriter) key(k string) {
	w.comma()
	w.b = append(w.b, '"')
	w.b = append(w.b, k...)
	w.b = append(w.b, '"', ':')
}

// text writes a string as it stands in the document; empty is {}.
func (w *rawWriter) text(k string, v value) { w.textOr(k, v, "") }

// textOr writes none for an empty value.
func (w *rawWriter) textOr(k string, v value, none string) {
	switch {
	case !v.empty() && v.kind() == text:
		w.key(k)
		w.b = append(w.b, v.node().raw...)
	case !v.empty() && (v.kind() == number || v.kind() == boolean):
		w.plain(k, string(v.node().raw))
	default:
		w.plain(k, none)
	}
}

// plain writes text that needs no escapes; empty is {}.
func (w *rawWriter) plain(k, s string) {
	w.key(k)
	if s == "" {
		w.empty()
		return
	}
	w.b = append(w.b, '"')
	w.b = append(w.b, s...)
	w.b = append(w.b, '"')
}

// number writes a number as text; none is {}.
func (w *rawWriter) number(k string, v value) {
	if v.kind() != number {
		w.plain(k, "")
		return
	}
	w.plain(k, string(v.node().raw))
}

// raw writes a number or a boolean as itself.
func (w *rawWriter) raw(k, s string) {
	w.key(k)
	w.b = append(w.b, s...)
}

// flag writes a boolean, as text where the raw form does.
func (w *rawWriter) flag(k string, v, asText bool) {
	s := strconv.FormatBool(v)
	if asText {
		w.plain(k, s)
	} else {
		w.raw(k, s)
	}
}
