package secrets

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

const (
	webhookPrefix = "whsec_"
	// The bounds of Standard Webhooks 1.0.0 for the decoded key: 192 to 512 bits.
	minWebhookKey, maxWebhookKey = 24, 64
	newWebhookKey                = 32
)

// FormError says that a text is no signing secret. It never quotes the text.
type FormError struct{ problem string }

func (e *FormError) Error() string {
	return "a signing secret is whsec_ and then padded base64 of 24 to 64 bytes: " + e.problem
}

// Code is the stable name of the error.
func (e *FormError) Code() string { return "secret_invalid" }

// NewWebhookSecret makes a signing secret of 32 random bytes; its text is "whsec_" + base64.
func NewWebhookSecret() Secret {
	key := make([]byte, newWebhookKey)
	rand.Read(key) // never fails: crypto/rand ends the process before it would
	return webhookText(key)
}

// ParseWebhookSecret reads a signing secret that somebody brought, with or without the prefix, and returns it in the form of NewWebhookSecret.
func ParseWebhookSecret(text string) (Secret, error) {
	key, err := webhookKey(strings.TrimSpace(text))
	if err != nil {
		return Secret{}, err
	}
	return webhookText(key), nil
}

// WebhookKey returns the bytes that sign: what the base64 of a signing secret stands for.
func WebhookKey(s Secret) ([]byte, error) { return webhookKey(string(s.Reveal())) }

func webhookText(key []byte) Secret {
	return New(append([]byte(webhookPrefix), base64.StdEncoding.EncodeToString(key)...))
}

func webhookKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(text, webhookPrefix))
	switch {
	case err != nil || strings.ContainsAny(text, "\r\n"): // the decoder skips line ends
		return nil, &FormError{"it is not padded standard base64"}
	case len(key) < minWebhookKey:
		return nil, &FormError{"it has fewer than 24 bytes"}
	case len(key) > maxWebhookKey:
		return nil, &FormError{"it has more than 64 bytes"}
	}
	return key, nil
}

// Fingerprint tells two secrets apart without showing either: 16 hexadecimal digits of a hash. Of a signing secret it hashes the key, so the text
// with and without prefix has one fingerprint. It may be shown only because these keys are random: a word could be found by trying words.
func Fingerprint(s Secret) string {
	b := s.Reveal()
	if key, err := webhookKey(string(b)); err == nil {
		b = key
	}
	h := sha256.New()
	h.Write([]byte("hookferry secret fingerprint 1\x00"))
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil)[:8])
}
