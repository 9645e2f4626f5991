package subscriptions

import (
	"strings"
	"sync/atomic"

	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/schemas"
)

// Live is a subscription as it stands at one version. It is immutable: a change makes another Live, so that who holds one may compare pointers to
// see whether anything changed. The sealed values are opened when first asked for and kept as long as the Live.
type Live struct {
	schemas.Subscription
	// AppendedAt is when the broker stamped this record, ms.
	AppendedAt int64

	keyring *secrets.Keyring
	opened  atomic.Pointer[opened]
}

// opened is what was decrypted. It is made when first asked for, because of a million subscriptions a process opens those that it sends to.
type opened struct {
	secrets []secrets.Secret
	headers []HeaderValue
	auth    secrets.Secret
	err     error
}

// HeaderValue is a custom header with its value.
type HeaderValue struct {
	Name  string
	Value secrets.Secret
}

// SigningSecrets returns the texts ("whsec_...") of the secrets that sign, newest first. An error is our own trouble (a missing key), never the
// receiver's: the task is postponed `local`.
func (l *Live) SigningSecrets() ([]secrets.Secret, error) {
	o := l.open()
	return o.secrets, o.err
}

// SigningKeys returns the same as the bytes that sign.
func (l *Live) SigningKeys() ([][]byte, error) {
	o := l.open()
	if o.err != nil {
		return nil, o.err
	}
	keys := make([][]byte, len(o.secrets))
	for i, s := range o.secrets {
		key, err := secrets.WebhookKey(s)
		if err != nil {
			return nil, err
		}
		keys[i] = key
	}
	return keys, nil
}

// HeaderValues returns the custom headers in the order in which they were given; Authorization is not among them. Errors as SigningSecrets.
func (l *Live) HeaderValues() ([]HeaderValue, error) {
	o := l.open()
	return o.headers, o.err
}

// Authorization returns the value of the Authorization header, if there is one. Errors as SigningSecrets.
func (l *Live) Authorization() (value secrets.Secret, ok bool, err error) {
	o := l.open()
	return o.auth, l.Auth != nil, o.err
}

// open decrypts, once. Two that ask at once may both do it; the same comes out. An error is kept, too: keys do not change while a process runs.
func (l *Live) open() *opened {
	if o := l.opened.Load(); o != nil {
		return o
	}
	o := l.unseal()
	if !l.opened.CompareAndSwap(nil, o) {
		o = l.opened.Load()
	}
	return o
}

func (l *Live) unseal() *opened {
	o := &opened{}
	for i := len(l.Secrets) - 1; i >= 0; i-- { // the record has them in the order in which they were made
		s := &l.Secrets[i]
		v, err := l.keyring.Open(l.ID, secretField(s.ID), s.Value)
		if err != nil {
			return &opened{err: err}
		}
		o.secrets = append(o.secrets, v)
	}
	for _, h := range l.Headers {
		v, err := l.keyring.Open(l.ID, headerField(h.Name), h.Value)
		if err != nil {
			return &opened{err: err}
		}
		o.headers = append(o.headers, HeaderValue{h.Name, v})
	}
	if l.Auth != nil {
		v, err := l.keyring.Open(l.ID, authField, *l.Auth)
		if err != nil {
			return &opened{err: err}
		}
		o.auth = v
	}
	return o
}

// The names of the fields that sealed values are bound to. They are part of what is encrypted: changing one makes old values unreadable.
const authField = "auth"

func secretField(id string) string   { return "secret/" + id }
func headerField(name string) string { return "header/" + strings.ToLower(name) }
