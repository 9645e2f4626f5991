package schemas

import (
	"bytes"
	"errors"
	"testing"
)

func TestBothFramingsAreRead(t *testing.T) {
	fp := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	f, body, err := Unframe(append(AppendSingleObject(nil, fp), "body"...))
	if err != nil || f != (Frame{Fingerprint: fp}) || string(body) != "body" {
		t.Errorf("single object: %+v %q %v", f, body, err)
	}
	f, body, err = Unframe(append(AppendConfluent(nil, 0xfedcba98), "body"...))
	if err != nil || f != (Frame{Confluent: true, ID: 0xfedcba98}) || string(body) != "body" {
		t.Errorf("confluent: %+v %q %v", f, body, err)
	}
	if b := AppendConfluent(nil, 7); !bytes.Equal(b, []byte{0, 0, 0, 0, 7}) {
		t.Errorf("confluent frame %x", b)
	}
}

func TestWhatIsNotFramedIsRefused(t *testing.T) {
	for _, b := range [][]byte{nil, {}, {0}, {0, 0, 0, 0}, {0xC3}, {0xC3, 1}, {0xC3, 1, 2, 3, 4, 5, 6, 7, 8}, {0xC3, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9}, []byte(`{"json":true}`)} {
		if _, _, err := Unframe(b); !errors.Is(err, errUnframed) {
			t.Errorf("%x: %v", b, err)
		}
	}
}
