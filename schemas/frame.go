package schemas

import "encoding/binary"

// Frame is what stands before an Avro body and names its writer's schema: an id of a registry (Confluent), or a fingerprint (single-object).
type Frame struct {
	Confluent   bool
	ID          uint32
	Fingerprint [8]byte
}

// Unframe reads the frame of a record's value; body is a slice of b.
func Unframe(b []byte) (f Frame, body []byte, err error) {
	switch {
	case len(b) >= 10 && b[0] == 0xC3 && b[1] == 0x01:
		return Frame{Fingerprint: [8]byte(b[2:10])}, b[10:], nil
	case len(b) >= 5 && b[0] == 0:
		return Frame{Confluent: true, ID: binary.BigEndian.Uint32(b[1:5])}, b[5:], nil
	}
	return Frame{}, nil, errUnframed
}

// AppendSingleObject appends the frame of Avro's single-object encoding.
func AppendSingleObject(dst []byte, fp [8]byte) []byte {
	dst = append(dst, 0xC3, 0x01)
	return append(dst, fp[:]...)
}

// AppendConfluent appends the frame of the Confluent wire format.
func AppendConfluent(dst []byte, id uint32) []byte {
	dst = append(dst, 0)
	return binary.BigEndian.AppendUint32(dst, id)
}
