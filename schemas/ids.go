package schemas

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
)

// IDLength is the length of a task id, and of the part of a webhook id that follows "msg_": 26 base32 characters carry 130 bits, so that two
// tasks of one deployment never meet by chance.
const IDLength = 26

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Source is the place of an event in the log, and when the broker appended it there (Time, in ms).
type Source struct {
	Topic     string
	Partition int32
	Offset    int64
	Time      int64
}

// TaskID names the one task that the event at src owes to a subscription. It is a function of where the event lies and for whom it is, so a
// router that routes a batch again after a crash writes the same ids, and the copies fall to the marks. The event id is part of it because
// a topic that was made anew counts its offsets from 0 again: those are other events, and other tasks. The append time is not: it
// says nothing about identity. replay is the id of the replay or catch-up that routed the event again, empty on the live path.
//
// Each field goes in with its length before it, so no two field lists run together to the same bytes.
func TaskID(src Source, eventID, subscription, replay string) string {
	var buf [256]byte
	b := appendIDField(buf[:0], src.Topic)
	b = binary.BigEndian.AppendUint32(b, uint32(src.Partition))
	b = binary.BigEndian.AppendUint64(b, uint64(src.Offset))
	b = appendIDField(b, eventID)
	b = appendIDField(b, subscription)
	b = appendIDField(b, replay)
	var out [IDLength]byte
	idOf(&out, b)
	return string(out[:])
}

// WebhookID is the `webhook-id` that the receiver sees. It knows neither the place in the log nor the replay, so every try, redrive and replay
// carries the same one, and so does an event that its publisher sent twice: a receiver that remembers it is safe from all of them.
func WebhookID(subscription, eventID string) string {
	var buf [256]byte
	b := appendIDField(buf[:0], subscription)
	b = appendIDField(b, eventID)
	var out [4 + IDLength]byte
	copy(out[:4], "msg_")
	idOf((*[IDLength]byte)(out[4:]), b)
	return string(out[:])
}

func appendIDField(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// idOf writes the first 26 base32 characters of the SHA-256 of b. 17 bytes of the hash are enough for them.
func idOf(dst *[IDLength]byte, b []byte) {
	sum := sha256.Sum256(b)
	var text [28]byte
	idEncoding.Encode(text[:], sum[:17])
	copy(dst[:], text[:])
}
