package subscriptions

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/internal/secrets"
	"github.com/hookferry/hookferry/schemas"
)

// The bounds of what a subscription may say.
const (
	maxName        = 100 // characters
	maxPatterns    = 64  // more than twice the catalogue: whoever needs more wants "*"
	maxHeaders     = 20
	maxHeaderName  = 64      // bytes
	maxHeaderValue = 1 << 10 // bytes
	maxHeaderBytes = 8 << 10 // bytes, names and values together: some servers take no more
	maxTries       = 20      //
	maxWait        = 7 * 24 * time.Hour
	minTimeout     = time.Second
	maxTimeout     = 30 * time.Second
	defaultTimeout = 15 * time.Second
	maxConcurrent  = 64
	minRate        = 0.01   // per second: slower than one in 100 s is a pause
	maxRate        = 10_000 // per second: no single receiver is faster
)

// Draft is what somebody asks for when creating a subscription. Zero values mean the default.
type Draft struct {
	Company string // or "*", with Operator
	Name    string
	URL     string
	Events  []string
	Format  string // standard, cloudevents or classic; default standard
	Headers []HeaderValue
	// Schedule holds the waits before each try. The first try is always made at once: a first wait that is not 0 is taken as the one before the second.
	Schedule       []time.Duration
	Timeout        time.Duration   // of one try; default 15 s
	MaxConcurrency int             // default: the deliverer's
	MaxRate        float64         // tries per second; default: none
	Secret         *secrets.Secret // nil: one is made
	Operator       bool            // may subscribe to all companies
	ReplayRate     float64         // tasks of catch-ups and replays per second; default: none
	Order          string          // entity, or none (the default)
	From           int64           // broker ms from which on events are owed; Earliest: all that the topics hold. 0: from the cut on
	AcceptGap      bool            // also where retention has taken a part of what From asks for
}

// Earliest as Draft.From: all that the topics hold.
const Earliest = int64(1)

// Change is what somebody asks to be changed. nil leaves what stands.
type Change struct {
	Name           *string
	URL            *string
	Events         []string
	Format         *string
	Headers        *[]HeaderValue // all of them, Authorization too
	SetHeaders     []HeaderValue  // these only; the others stay
	RemoveHeaders  []string
	Schedule       *[]time.Duration // empty: the default again
	Timeout        *time.Duration
	MaxConcurrency *int     // 0: the deliverer's default again
	MaxRate        *float64 // 0: none
	ReplayRate     *float64 // 0: none
	Order          *string  // entity or none
	// IfVersion refuses the change with version_conflict unless this version stands. 0: whatever stands.
	IfVersion int64
}

var companyID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// checks collects what is wrong with a draft. Its methods return the value as it is to be stored.
type checks struct {
	policy   *egress.Policy
	refusals Refusals
}

func (c *checks) refuse(code, field, format string, args ...any) {
	c.refusals = append(c.refusals, refuse(code, field, format, args...))
}

func (c *checks) company(s string, operator bool) string {
	switch {
	case s == schemas.AnyCompany && !operator:
		c.refuse(CodeCompanyAny, "company", "only an operator may subscribe to the events of all companies")
	case s == schemas.AnyCompany:
	case !companyID.MatchString(s):
		c.refuse(CodeCompanyInvalid, "company", "a company id has 1 to 64 letters, digits, '.', '_' or '-', and starts with a letter or digit")
	}
	return s
}

func (c *checks) name(s string) string {
	s = strings.TrimSpace(s)
	switch n := utf8.RuneCountInString(s); {
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable):
		c.refuse(CodeNameInvalid, "name", "a name is text without control characters")
	case n == 0 || n > maxName:
		c.refuse(CodeNameInvalid, "name", "a name has 1 to %d characters, this one has %d", maxName, n)
	}
	return s
}

// unprintable: controls, line separators, and the marks that turn the direction of text, with which one name can be made to look like another.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Cf) && r != '\u200d' && r != '\u200c'
}

func (c *checks) url(s string) string {
	u, err := c.policy.CheckURL(s)
	if err != nil {
		code := "url_invalid"
		if coded, ok := err.(interface{ Code() string }); ok {
			code = coded.Code()
		}
		c.refuse(code, "url", "%s", err.Error())
		return s
	}
	return u.String()
}

func (c *checks) events(patterns []string) []string {
	if len(patterns) == 0 {
		c.refuse(CodeEventsMissing, "events", "name at least one event type or pattern: booking.creation, booking.*, *.removal, or *")
	}
	if len(patterns) > maxPatterns { // before any of them is looked at
		c.refuse(CodeEventsTooMany, "events", "there are %d patterns, and at most %d may be given; \"*\" stands for all events", len(patterns), maxPatterns)
		return nil
	}
	var out []string
	for i, p := range patterns {
		p = strings.TrimSpace(p)
		if patternBits[p] == 0 {
			c.refuse(CodeEventUnknown, fmt.Sprintf("events[%d]", i), "%q stands for no event type%s (hookferry schemas list shows them)", clip(p), suggestion(p))
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// suggestion names what was probably meant: the pattern whose text is nearest, if it is near.
func suggestion(p string) string {
	best, at := 4, ""
	for known := range patternBits {
		if d := distance(strings.ToLower(p), known); d < best || d == best && known < at {
			best, at = d, known
		}
	}
	if at == "" || len(p) > 64 {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", at)
}

// distance is the number of letters to insert, remove or replace (Levenshtein).
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

func (c *checks) format(s string) string {
	switch s {
	case "":
		return schemas.FormatStandard
	case schemas.FormatStandard, schemas.FormatCloudEvents, schemas.FormatClassic:
	default:
		c.refuse(CodeFormatUnknown, "format", "%q is no format; there are standard, cloudevents and classic", clip(s))
	}
	return s
}

func (c *checks) schedule(waits []time.Duration) []int64 {
	if len(waits) == 0 {
		return nil
	}
	if waits[0] != 0 {
		waits = append([]time.Duration{0}, waits...)
	}
	if len(waits) > maxTries {
		c.refuse(CodeScheduleInvalid, "schedule", "it has %d tries, and at most %d may be made", len(waits), maxTries)
	}
	out := make([]int64, len(waits))
	for i, w := range waits {
		if w < 0 || w > maxWait {
			c.refuse(CodeScheduleInvalid, "schedule", "a wait lies between 0 and 7 days (168h), and %v does not", w)
		}
		out[i] = w.Milliseconds()
	}
	return out
}

func (c *checks) timeout(d time.Duration) int32 {
	if d == 0 {
		d = defaultTimeout
	}
	if d < minTimeout || d > maxTimeout {
		c.refuse(CodeTimeoutInvalid, "timeout", "a try may take 1s to 30s, not %v: longer ones hold a place in the lane that others need", d)
	}
	return int32(d.Milliseconds())
}

func (c *checks) concurrency(n int) int32 {
	if n < 0 || n > maxConcurrent {
		c.refuse(CodeConcurrencyRange, "max-concurrency", "1 to %d tries may run at once, not %d", maxConcurrent, n)
		return 0
	}
	return int32(n)
}

func (c *checks) rate(field string, r float64) float64 {
	if r != 0 && !(r >= minRate && r <= maxRate) || math.IsNaN(r) {
		c.refuse(CodeRateInvalid, field, "a rate lies between %v and %v per second, or is 0 for none", minRate, maxRate)
	}
	return r
}

func (c *checks) order(s string) string {
	switch s {
	case "", "none":
		return ""
	case schemas.OrderEntity:
	default:
		c.refuse(CodeOrderUnknown, "order", "%q is no order; there are entity and none", clip(s))
	}
	return s
}

// from may lie a little ahead of the broker's clock: it comes from somebody else's.
func (c *checks) from(ms int64, now time.Time) int64 {
	if ms < 0 || ms > now.Add(time.Minute).UnixMilli() {
		c.refuse(CodeFromInvalid, "from", "%s does not lie in the past: a subscription gets what is published from now on without it", stamp(ms))
	}
	return min(ms, now.UnixMilli())
}

func (c *checks) headers(hs []HeaderValue) {
	if len(hs) > maxHeaders {
		c.refuse(CodeHeadersTooMany, "headers", "there are %d headers, and at most %d may be given", len(hs), maxHeaders)
	}
	size, seen := 0, map[string]bool{}
	for _, h := range hs {
		field, value := "headers."+clip(h.Name), h.Value.Reveal()
		size += len(h.Name) + len(value)
		lower := strings.ToLower(h.Name)
		switch {
		case !headerToken(h.Name):
			c.refuse(CodeHeaderInvalid, "headers", "%q is no header name: 1 to %d letters, digits, or any of !#$%%&'*+-.^_`|~", clip(h.Name), maxHeaderName)
			continue
		case headerForbidden(lower):
			c.refuse(CodeHeaderForbidden, field, "this header belongs to the protocol, to the delivery itself or to a platform in between, and may not be set")
		case seen[lower]:
			c.refuse(CodeHeaderDuplicate, field, "the header is given twice")
		}
		seen[lower] = true
		switch { // the value is a secret: no sentence shows it
		case len(value) == 0 || len(value) > maxHeaderValue:
			c.refuse(CodeHeaderInvalid, field, "a header value has 1 to %d bytes", maxHeaderValue)
		case !headerText(value):
			c.refuse(CodeHeaderInvalid, field, "a header value is visible ASCII, with spaces and tabs only between")
		}
	}
	if size > maxHeaderBytes {
		c.refuse(CodeHeadersTooMany, "headers", "names and values have %d bytes together, and at most %d may be given", size, maxHeaderBytes)
	}
}

// headerToken: a token of RFC 9110 section 5.6.2.
func headerToken(s string) bool {
	if len(s) == 0 || len(s) > maxHeaderName {
		return false
	}
	for i := range len(s) {
		b := s[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !letter && strings.IndexByte("!#$%&'*+-.^_`|~", b) < 0 {
			return false
		}
	}
	return true
}

func headerText(b []byte) bool {
	for i, c := range b {
		inner := i > 0 && i < len(b)-1
		if c < ' ' && !(c == '\t' && inner) || c == ' ' && !inner || c > '~' {
			return false
		}
	}
	return true
}

var forbiddenHeaders = []string{"host", "transfer-encoding", "te", "trailer", "connection", "keep-alive", "upgrade", "expect", "accept-encoding",
	"cookie", "date", "via", "forwarded", "x-real-ip", "traceparent", "tracestate", "baggage", "user-agent"}

var forbiddenPrefixes = []string{"content-", "proxy-", "x-forwarded-", "webhook-", "ce-", "metadata", "x-amz-", "x-aws-", "x-goog-", "x-google-", "x-azure-",
	"x-ms-"}

func headerForbidden(lower string) bool {
	return slices.Contains(forbiddenHeaders, lower) ||
		slices.ContainsFunc(forbiddenPrefixes, func(p string) bool { return strings.HasPrefix(lower, p) })
}
