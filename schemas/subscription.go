package schemas

import _ "embed"

//go:embed subscription.avsc
var subscriptionSchema string

// subscriptionFrame is the single-object frame of subscription.avsc. A test holds it to the file.
const subscriptionFrame = "\xc3\x01\x0e\x49\x01\x29\x88\xc4\xc1\x47"

// Sealed is a secret value as it may lie on a topic: AES-256-GCM, nonce || ciphertext, under the key that KeyID names.
type Sealed struct {
	KeyID string
	Data  []byte
}

// Header is one custom header of a subscription. Its value is sealed: people put tokens there.
type Header struct {
	Name  string
	Value Sealed
}

// Secret is one signing secret. Fingerprint tells two secrets apart without showing either.
type Secret struct {
	ID          string
	Kind        string // "v1"
	Value       Sealed
	Fingerprint string
	CreatedAt   int64
	ExpiresAt   int64 // 0 = live
}

// The kinds of a cut.
const (
	CutLive   = "live"
	CutPaused = "paused"
)

// Cut is the broker time (ms) from which a subscription is live, or paused.
type Cut struct {
	At     int64
	Kind   string // CutLive or CutPaused
	Reason string
}

// The states of a subscription.
const (
	StateActive   = "active"
	StatePaused   = "paused"
	StateDisabled = "disabled"
	StateDeleted  = "deleted"
)

// The formats of a body.
const (
	FormatStandard    = "standard"
	FormatCloudEvents = "cloudevents"
	FormatClassic     = "classic"
)

// OrderEntity in Subscription.Order: an event of an entity is not tried before the one before it is delivered or dead.
const OrderEntity = "entity"

// AnyCompany stands in Subscription.Company for all companies; operators only.
const AnyCompany = "*"

// Subscription is one receiver. Times are ms since 1970 UTC, and 0 means none.
type Subscription struct {
	ID             string // "sub_" + 26 base32 characters
	Version        int64
	Company        string // or AnyCompany
	Name           string
	URL            string
	Events         []string // patterns
	Format         string
	Headers        []Header
	Auth           *Sealed // value of an Authorization header; nil: none
	Secrets        []Secret
	Schedule       []int64 // waits between tries, ms; empty: the default
	TimeoutMs      int32
	MaxConcurrency int32
	MaxRate        float64 // per second; 0: none
	ReplayRate     float64 // tasks of catch-ups and replays per second; 0: no bound of its own
	Order          string  // OrderEntity, or empty: none
	State          string
	StateReason    string
	FailingSince   int64
	Spans          []Cut // ascending by At
	BackfillFrom   int64 // 0: none
	CreatedAt      int64
	UpdatedAt      int64
	Repair         bool   // this record restates what stood when another was rejected
	UpdatedBy      string // the writer's nonce: it tells a writer its own record
}

// LiveAt says whether an event that the broker appended at t (ms) belongs to the live path: whether the last cut at or before t says "live". It
// looks at the spans alone, so every reader of the same record gives the same answer whatever state the subscription is in by now.
func (s *Subscription) LiveAt(t int64) bool {
	for i := len(s.Spans) - 1; i >= 0; i-- {
		if s.Spans[i].At <= t {
			return s.Spans[i].Kind == CutLive
		}
	}
	return false
}

// AppendSubscription appends the record, framed.
func AppendSubscription(dst []byte, s *Subscription) []byte {
	b := append(dst, subscriptionFrame...)
	b = appendString(b, s.ID)
	b = appendLong(b, s.Version)
	b = appendString(b, s.Company)
	b = appendString(b, s.Name)
	b = appendString(b, s.URL)
	b = appendCount(b, len(s.Events))
	for _, e := range s.Events {
		b = appendString(b, e)
	}
	b = append(b, endBlocks)
	b = appendString(b, s.Format)
	b = appendSealing(b, s)
	b = appendCount(b, len(s.Schedule))
	for _, w := range s.Schedule {
		b = appendLong(b, w)
	}
	b = append(b, endBlocks)
	b = appendLong(b, int64(s.TimeoutMs))
	b = appendLong(b, int64(s.MaxConcurrency))
	b = appendDouble(b, s.MaxRate)
	b = appendDouble(b, s.ReplayRate)
	b = appendString(b, s.Order)
	b = appendString(b, s.State)
	b = appendText(b, s.StateReason)
	b = appendLong(b, s.FailingSince)
	b = appendCount(b, len(s.Spans))
	for i := range s.Spans {
		b = appendLong(b, s.Spans[i].At)
		b = appendString(b, s.Spans[i].Kind)
		b = appendText(b, s.Spans[i].Reason)
	}
	b = append(b, endBlocks)
	b = appendLong(b, s.BackfillFrom)
	b = appendLong(b, s.CreatedAt)
	b = appendLong(b, s.UpdatedAt)
	b = appendBool(b, s.Repair)
	return appendString(b, s.UpdatedBy)
}

// appendSealing writes the three fields that hold sealed values: headers, auth, secrets.
func appendSealing(b []byte, s *Subscription) []byte {
	b = appendCount(b, len(s.Headers))
	for i := range s.Headers {
		b = appendString(b, s.Headers[i].Name)
		b = appendSealed(b, &s.Headers[i].Value)
	}
	b = append(b, endBlocks)
	if s.Auth == nil {
		b = appendLong(b, 0)
	} else {
		b = appendLong(b, 1)
		b = appendSealed(b, s.Auth)
	}
	b = appendCount(b, len(s.Secrets))
	for i := range s.Secrets {
		c := &s.Secrets[i]
		b = appendString(b, c.ID)
		b = appendString(b, c.Kind)
		b = appendSealed(b, &c.Value)
		b = appendString(b, c.Fingerprint)
		b = appendLong(b, c.CreatedAt)
		b = appendLong(b, c.ExpiresAt)
	}
	return append(b, endBlocks)
}

func appendSealed(b []byte, s *Sealed) []byte {
	b = appendString(b, s.KeyID)
	return appendBytes(b, s.Data)
}

// DecodeSubscription reads a subscription into s, all of whose fields it sets. Nothing of it aliases b: the live table keeps millions of them.
func DecodeSubscription(b []byte, s *Subscription) error {
	r, err := openRecord(b, "subscription", subscriptionFrame)
	if err != nil {
		return err
	}
	r.text = string(b)
	*s = Subscription{ID: r.str(), Version: r.long(), Company: r.str(), Name: r.str(), URL: r.str()}
	r.blocks(func() { s.Events = append(s.Events, r.str()) })
	s.Format = r.str()
	r.blocks(func() { s.Headers = append(s.Headers, Header{Name: r.str(), Value: r.sealed()}) })
	if r.optional() {
		v := r.sealed()
		s.Auth = &v
	}
	r.blocks(func() {
		s.Secrets = append(s.Secrets, Secret{ID: r.str(), Kind: r.str(), Value: r.sealed(), Fingerprint: r.str(), CreatedAt: r.long(), ExpiresAt: r.long()})
	})
	r.blocks(func() { s.Schedule = append(s.Schedule, r.long()) })
	s.TimeoutMs, s.MaxConcurrency, s.MaxRate, s.ReplayRate, s.Order = r.int(), r.int(), r.double(), r.double(), r.str()
	s.State, s.StateReason, s.FailingSince = r.str(), r.str(), r.long()
	r.blocks(func() { s.Spans = append(s.Spans, Cut{At: r.long(), Kind: r.str(), Reason: r.str()}) })
	s.BackfillFrom, s.CreatedAt, s.UpdatedAt = r.long(), r.long(), r.long()
	s.Repair, s.UpdatedBy = r.bool(), r.str()
	return r.end()
}

// sealed copies the data: who keeps a subscription shall not keep the fetched batch that it came in.
func (r *reader) sealed() Sealed {
	return Sealed{KeyID: r.str(), Data: append([]byte(nil), r.bytes()...)}
}
