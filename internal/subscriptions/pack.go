package subscriptions

import (
	"strings"

	"github.com/hookferry/hookferry/schemas"
)

// known are the texts that most subscriptions share: kept once, whatever the number of subscriptions.
var known = func() map[string]string {
	m := map[string]string{}
	for _, s := range []string{
		schemas.FormatStandard, schemas.FormatCloudEvents, schemas.FormatClassic, schemas.StateActive, schemas.StatePaused, schemas.StateDisabled,
		schemas.StateDeleted, schemas.CutLive, schemas.CutPaused, schemas.AnyCompany, schemas.OrderEntity, "v1",
	} {
		m[s] = s
	}
	for p := range patternBits {
		m[p] = p
	}
	return m
}()

// pack gives the texts of a decoded record a string of their own. The decoder makes all of them slices of one copy of the whole record, sealed values
// and known words included; a million of those copies are what would not fit into a GiB. company is the text that the company's
// other subscriptions use, empty if there is none.
func pack(s *schemas.Subscription, company string, keyIDs map[string]string) {
	own := make([]*string, 0, 16)
	size := 0
	put := func(text *string) {
		if word, ok := known[*text]; ok {
			*text = word
		} else if *text == "" {
			*text = "" // an empty slice of the copy holds all of it
		} else {
			own = append(own, text)
			size += len(*text)
		}
	}
	sealed := func(v *schemas.Sealed) { // key ids are few
		if id, ok := keyIDs[v.KeyID]; ok {
			v.KeyID = id
		} else {
			v.KeyID = strings.Clone(v.KeyID)
			if len(keyIDs) < 1000 {
				keyIDs[v.KeyID] = v.KeyID
			}
		}
	}
	if company == "" {
		put(&s.Company)
	} else {
		s.Company = company
	}
	for _, text := range []*string{&s.ID, &s.Name, &s.URL, &s.Format, &s.Order, &s.State, &s.StateReason, &s.UpdatedBy} {
		put(text)
	}
	for i := range s.Events {
		put(&s.Events[i])
	}
	for i := range s.Headers {
		put(&s.Headers[i].Name)
		sealed(&s.Headers[i].Value)
	}
	if s.Auth != nil {
		sealed(s.Auth)
	}
	for i := range s.Secrets {
		for _, text := range []*string{&s.Secrets[i].ID, &s.Secrets[i].Kind, &s.Secrets[i].Fingerprint} {
			put(text)
		}
		sealed(&s.Secrets[i].Value)
	}
	for i := range s.Spans {
		put(&s.Spans[i].Kind)
		put(&s.Spans[i].Reason)
	}
	var b strings.Builder
	b.Grow(size)
	for _, text := range own {
		b.WriteString(*text)
	}
	all := b.String()
	for _, text := range own {
		n := len(*text)
		*text, all = all[:n], all[n:]
	}
}
