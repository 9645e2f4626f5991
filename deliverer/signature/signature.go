package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Names of the three fields that carry a signature.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
)

// DefaultTolerance is how far a timestamp may lie from the receiver's clock, either way.
const DefaultTolerance = 5 * time.Minute

// Secrets shorter than minSecret bytes can be guessed, longer than maxSecret are a mistake; both bounds are those of Standard Webhooks.
const (
	minSecret    = 24
	maxSecret    = 64
	secretPrefix = "whsec_"
)

// A request that names more signatures than this is an attempt to make the receiver compute.
const maxSignatures = 32

// Reasons why Verify refuses, in the order in which they are looked for.
var (
	ErrMissingHeader = errors.New("webhook-id, webhook-timestamp or webhook-signature is missing")
	ErrTimestamp     = errors.New("webhook-timestamp is not a number of Unix seconds")
	ErrTooOld        = errors.New("webhook-timestamp is too old (is this machine's clock right?)")
	ErrTooNew        = errors.New("webhook-timestamp lies in the future (is this machine's clock right?)")
	ErrMismatch      = errors.New("no signature matches (is this the secret of this subscription, and the body unchanged?)")
	ErrSecret        = errors.New("a secret is whsec_ and the padded standard base64 of 24 to 64 bytes")
)

// ParseSecret returns the key that a secret text stands for: the decoded bytes after the prefix "whsec_", which may be left out.
func ParseSecret(s string) ([]byte, error) {
	// Strict refuses set bits in the padding, so that one key has one text.
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(s, secretPrefix))
	if err != nil || strings.ContainsAny(s, "\r\n") || len(key) < minSecret || len(key) > maxSecret {
		return nil, ErrSecret // never with its text or the decoder's position
	}
	return key, nil
}

// FormatSecret is the text of a key, as ParseSecret reads it.
func FormatSecret(key []byte) string {
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// Sign returns the one signature "v1,<base64>" of a body sent at Unix second ts. The secret is the decoded one.
func Sign(secret []byte, id string, ts int64, body []byte) string {
	s := NewSigner(secret)
	return string(s.AppendSignature(nil, id, strconv.AppendInt(nil, ts, 10), body))
}

// A Signer signs again and again with the same secrets and does not allocate. It is not safe for concurrent use.
type Signer struct {
	macs []hash.Hash
	id   []byte
	sum  [sha256.Size]byte
}

// NewSigner returns a signer that signs with every one of the decoded secrets, in the order given: newest first.
func NewSigner(secrets ...[]byte) *Signer {
	s := &Signer{macs: make([]hash.Hash, len(secrets))}
	for i, key := range secrets {
		s.macs[i] = hmac.New(sha256.New, key)
	}
	return s
}

// AppendSignature appends the value of webhook-signature: one "v1,<base64>" for each secret, one space between.
// The timestamp is the very text of webhook-timestamp.
func (s *Signer) AppendSignature(dst []byte, id string, timestamp, body []byte) []byte {
	s.id = append(append(append(append(s.id[:0], id...), '.'), timestamp...), '.')
	for i, mac := range s.macs {
		if i > 0 {
			dst = append(dst, ' ')
		}
		mac.Reset()
		mac.Write(s.id)
		mac.Write(body)
		dst = append(dst, "v1,"...)
		dst = base64.StdEncoding.AppendEncode(dst, mac.Sum(s.sum[:0]))
	}
	return dst
}

// Verify says whether a request was signed with one of the decoded secrets, and lately: its timestamp may lie at most tolerance from now, either
// way. Signatures of schemes that this package does not know are passed over. Give it the body as received, before anything parses it.
// It does not look for repetitions: remember webhook-id for that.
func Verify(secrets [][]byte, header http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	id, ts, sigs := header.Get(HeaderID), header.Get(HeaderTimestamp), header.Get(HeaderSignature)
	if id == "" || ts == "" || sigs == "" {
		return ErrMissingHeader
	}
	sec, err := strconv.ParseInt(ts, 10, 64)
	if err != nil || strconv.FormatInt(sec, 10) != ts { // one time has one text, and only that was signed
		return ErrTimestamp
	}
	const year9999 = 253402300799
	if sec < 0 || sec > year9999 {
		return ErrTimestamp
	}
	switch at := time.Unix(sec, 0); {
	case now.Sub(at) > tolerance:
		return ErrTooOld
	case at.Sub(now) > tolerance:
		return ErrTooNew
	}
	// All secrets and signatures are compared whatever was found before, so that the time taken says nothing.
	match := 0
	for _, key := range secrets {
		want := []byte(Sign(key, id, sec, body))
		n := 0
		for got := range strings.SplitSeq(sigs, " ") {
			if n++; n > maxSignatures {
				break
			}
			match |= subtle.ConstantTimeCompare([]byte(got), want)
		}
	}
	if match == 0 {
		return ErrMismatch
	}
	return nil
}
