package deliverer

import (
	"fmt"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/subscriptions"
)

// NewTarget prepares the posting to one version of a subscription. The URL is checked again under the policy of this process: it was admitted under the
// policy of another day. A *egress.Refusal is the verdict blocked; any other error is our own trouble (a key that is missing, a record that should never
// have been admitted) and names no secret.
func NewTarget(l *subscriptions.Live, p *egress.Policy, userAgent string) (*Target, error) {
	u, err := p.CheckURL(l.URL)
	if err != nil {
		return nil, err
	}
	keys, err := l.SigningKeys()
	if err != nil {
		return nil, fmt.Errorf("signing secrets: %w", err)
	}
	headers, err := l.HeaderValues()
	if err != nil {
		return nil, fmt.Errorf("headers: %w", err)
	}
	spec := targetSpec{url: u, userAgent: userAgent, secrets: keys, tls: p.TLSConfig(u.Host)}
	for _, h := range headers {
		spec.headers = append(spec.headers, [2]string{h.Name, string(h.Value.Reveal())})
	}
	auth, ok, err := l.Authorization()
	if err != nil {
		return nil, fmt.Errorf("authorization: %w", err)
	}
	if ok {
		spec.headers = append(spec.headers, [2]string{"Authorization", string(auth.Reveal())})
	}
	return newTarget(spec)
}
