package subscriptions

import (
	"context"
	"slices"

	"github.com/hookferry/hookferry/schemas"
)

// Reseal encrypts anew, under the keyring's first key, what a subscription has under another. It says whether there was anything. The values stay the same, so
// no receiver notices; when all subscriptions are done, the old key may go.
//
// A process that has not learned of the new key yet cannot open what was resealed: every process gets the new key, behind the old one, before it becomes
// the first anywhere.
func (w *Writer) Reseal(ctx context.Context, id string) (changed bool, err error) {
	_, err = w.change(ctx, id, w.write, func(l *Live, s *schemas.Subscription) error {
		changed = false
		again := func(field string, old schemas.Sealed) (schemas.Sealed, error) {
			if old.KeyID == w.keys.Keys()[0] {
				return old, nil
			}
			v, err := w.keys.Open(l.ID, field, old)
			if err != nil {
				return old, err
			}
			changed = true
			return w.keys.Seal(l.ID, field, v.Reveal())
		}
		s.Secrets, s.Headers = append([]schemas.Secret(nil), l.Secrets...), append([]schemas.Header(nil), l.Headers...)
		var err error
		for i := range s.Secrets {
			if s.Secrets[i].Value, err = again(secretField(s.Secrets[i].ID), s.Secrets[i].Value); err != nil {
				return err
			}
		}
		for i := range s.Headers {
			if s.Headers[i].Value, err = again(headerField(s.Headers[i].Name), s.Headers[i].Value); err != nil {
				return err
			}
		}
		if l.Auth != nil {
			auth, err := again(authField, *l.Auth)
			if err != nil {
				return err
			}
			s.Auth = &auth
		}
		if !changed {
			return errNothing
		}
		return nil
	})
	return changed, err
}

// Import takes over a subscription of another topic set of the same platform: same id, secrets, spans and state, as version 1 of this set. It says whether it
// was new here; one that is there already stays as it is, so that an import may be run again. Its secrets must open with the keys of this process.
//
// Nothing is routed by it before the routers of this set have read it: whoever moves publishers from one set to the other imports first.
func (w *Writer) Import(ctx context.Context, s schemas.Subscription) (added bool, err error) {
	if err := w.table.CatchUp(ctx); err != nil {
		return false, err
	}
	if _, there := w.table.Get(s.ID); there || s.State == schemas.StateDeleted {
		return false, nil
	}
	if o := (&Live{Subscription: s, keyring: w.keys}).open(); o.err != nil {
		return false, o.err
	}
	c := &checks{policy: w.policy}
	s.URL = c.url(s.URL)
	if err := c.refusals.err(); err != nil {
		return false, err
	}
	if err := w.admit(&s); err != nil {
		return false, err
	}
	s.Version, s.FailingSince = 1, 0
	// The catch-ups that its cuts name are orders of the other set, and no event of this one lies in their spans. Here nobody knows them, so whoever has to wait
	// for their end (order: entity) would wait for ever.
	s.Spans = slices.Clone(s.Spans)
	for i := range s.Spans {
		if s.Spans[i].Kind == schemas.CutLive {
			s.Spans[i].Reason = ""
		}
	}
	_, err = w.write(ctx, &s)
	return err == nil, err
}

// KeysInUse counts the subscriptions by the ids of the keys that their sealed values are under: a key that none is under may be taken away.
func KeysInUse(t *Table) map[string]int {
	out := map[string]int{}
	for l := range t.All() {
		ids := map[string]bool{}
		for i := range l.Secrets {
			ids[l.Secrets[i].Value.KeyID] = true
		}
		for i := range l.Headers {
			ids[l.Headers[i].Value.KeyID] = true
		}
		if l.Auth != nil {
			ids[l.Auth.KeyID] = true
		}
		for id := range ids {
			out[id]++
		}
	}
	return out
}
