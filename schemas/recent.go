package schemas

// RecentSnapshot is the internal event type that carries a company's latest bookings.
const RecentSnapshot = "recent_reservations.snapshot"

// Addressee is the subscription that an event is owed to and to nobody else, whatever that subscription's patterns and spans say; empty: the event goes to
// all who want it, as every event of the 26 types does. A snapshot says it by its entity: its company, for one that goes to all, or else the subscription
// that asked.
//
// The live path routes an addressed event whatever its append time. So a catch-up must leave it out: the span before a subscription's live cut holds the
// snapshot that it began with.
func Addressee(eventType, company, entityID string) string {
	if eventType != RecentSnapshot || entityID == company {
		return ""
	}
	return entityID
}

// AppendSnapshot appends the Avro body of a snapshot whose bookings are given encoded, each by AppendAvro: who keeps them so need not read them to pass
// them on. The bookings of ev itself do not count.
func AppendSnapshot(dst []byte, ev *RecentReservationsEvent, bookings [][]byte) ([]byte, error) {
	empty := *ev
	empty.Data.Bookings, empty.Previous = nil, nil
	b, err := empty.AppendAvro(dst)
	if err != nil || len(bookings) == 0 {
		return b, err
	}
	b = appendCount(b[:len(b)-2], len(bookings)) // the list is the last field of data, and behind its end only previous is left, which is null
	for _, one := range bookings {
		b = append(b, one...)
	}
	return append(b, endBlocks, 0), nil
}

// AppendAvro appends the record by itself, without a frame, for who keeps many of them. Errors as those of an Event.
func (v *RecentBooking) AppendAvro(dst []byte) ([]byte, error) {
	e := eventEncoder{b: dst}
	v.encode(&e)
	return e.finish(dst)
}

// DecodeAvro is the inverse.
func (v *RecentBooking) DecodeAvro(body []byte) error {
	d := newEventDecoder(body)
	v.decode(&d)
	return d.end()
}
