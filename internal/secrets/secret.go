// Package secrets keeps what must not be seen: a type that cannot be printed, the keys that encrypt it at rest, and the signing secrets of
// subscriptions.
//
//	Secret    a value in memory. Every way to show it gives "[redacted]"; Reveal is the only way to its bytes.
//	Keyring   AES-256-GCM over what lies on the `subscriptions` topic, bound to the subscription and the field it belongs to
//	webhook.go signing secrets ("whsec_..."): making, reading, telling apart
//
// It imports nothing of ours but schemas.
package secrets

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret holds bytes that cannot be printed. The zero Secret is empty. It may be copied, and is not comparable with ==.
//
// The bytes live in a closure and not in a field: fmt does not call the methods of a value that sits in an unexported field of another struct but
// prints what reflection shows, and tools that dump values follow every pointer. Neither can look into a closure.
type Secret struct {
	reveal func() []byte
}

// New takes the bytes over: the caller keeps no other copy.
func New(b []byte) Secret {
	if len(b) == 0 {
		return Secret{}
	}
	return Secret{func() []byte { return b }}
}

// Reveal returns the bytes. They must not be changed, logged, or kept longer than needed.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// IsZero says that there is nothing in it. Encoders that leave out empty fields ask for it.
func (s Secret) IsZero() bool { return s.reveal == nil }

// Equal compares in a time that does not depend on where two secrets of one length differ.
func (s Secret) Equal(t Secret) bool { return subtle.ConstantTimeCompare(s.Reveal(), t.Reveal()) == 1 }

// String hides the bytes.
func (Secret) String() string { return redacted }

// GoString hides the bytes from %#v.
func (Secret) GoString() string { return redacted }

// Format hides the bytes from every verb of fmt.
func (Secret) Format(f fmt.State, verb rune) { io.WriteString(f, redacted) }

// MarshalJSON hides the bytes.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText hides the bytes from YAML, XML and every other encoder of texts.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalBinary hides the bytes from gob.
func (Secret) MarshalBinary() ([]byte, error) { return []byte(redacted), nil }

// LogValue hides the bytes from log/slog. (zap asks for String or MarshalJSON.)
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// UnmarshalText takes a secret from a configuration.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = New(bytes.Clone(text))
	return nil
}
