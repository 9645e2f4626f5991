package recent

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// The paths that are answered. They are an interface.
const (
	pathRecent    = "/v1/recent"
	pathSnapshots = "/v1/recent/snapshots"
)

// takeLimit is how long a request for a snapshot may take: Kafka may be electing a leader.
const takeLimit = 30 * time.Second

func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathRecent, s.answer(s.recent))
	mux.HandleFunc("POST "+pathSnapshots, s.answer(s.snapshot))
	return mux
}

// answer is what every path has in common: who may ask, errors as documents, counting.
func (s *Service) answer(do func(*http.Request) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		began, status := time.Now(), http.StatusOK
		err := s.admit(r)
		var doc []byte
		if err == nil {
			doc, err = do(r)
		}
		if err != nil {
			status, doc = errorDoc(err)
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store") // it holds customers' names
		h.Set("X-Content-Type-Options", "nosniff")
		if status == http.StatusServiceUnavailable {
			h.Set("Retry-After", "1")
		}
		w.WriteHeader(status)
		_, _ = w.Write(doc)
		s.metrics.answers.WithLabelValues(strconv.Itoa(status)).Inc()
		s.metrics.seconds.Observe(time.Since(began).Seconds())
	}
}

// deniedError says that who asks may not.
type deniedError struct {
	status   int
	sentence string
}

func (e *deniedError) Error() string { return e.sentence }

// Code is stable: programs may compare it.
func (e *deniedError) Code() string { return "denied" }

// admit says whether a request may be answered. Without a token only this machine reaches the listener; but so do the pages in its browsers, under any name
// that resolves to it. They name their own host, or an origin.
func (s *Service) admit(r *http.Request) error {
	if s.cfg.Token != "" {
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || subtle.ConstantTimeCompare([]byte(given), []byte(s.cfg.Token.Reveal())) != 1 {
			return &deniedError{http.StatusUnauthorized, "the header Authorization: Bearer TOKEN is needed, with the service's recent.token"}
		}
		return nil
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if !isLoopback(strings.Trim(host, "[]")) || r.Header.Get("Origin") != "" {
		return &deniedError{http.StatusForbidden, "without recent.token only programs of this machine are answered, under localhost or a loopback address"}
	}
	return nil
}

// errorDoc is an error as a document, and its status.
func errorDoc(err error) (int, []byte) {
	status, code := http.StatusServiceUnavailable, "unavailable"
	var coded interface{ Code() string }
	if errors.As(err, &coded) {
		code = coded.Code()
	}
	var denied *deniedError
	switch {
	case errors.As(err, &denied):
		status = denied.status
	case errors.As(err, new(*AskError)):
		status = http.StatusBadRequest
	}
	doc, _ := json.Marshal(map[string]any{"error": map[string]string{"code": code, "message": err.Error()}})
	return status, append(doc, '\n')
}

func askOf(q url.Values) (Ask, error) {
	a := Ask{Company: q.Get("company"), Subscription: q.Get("subscription"), ID: q.Get("id")}
	for key, values := range q {
		switch key {
		case "company", "subscription", "id", "limit":
		default:
			return a, &AskError{"parameter_unknown", "there are the parameters company and limit, and for a snapshot subscription and id"}
		}
		if len(values) > 1 {
			return a, &AskError{"parameter_twice", key + " is given twice"}
		}
	}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > Most {
			return a, &AskError{"limit_invalid", "limit is a number from 1 to " + strconv.Itoa(Most)}
		}
		a.Limit = n
	}
	return a, a.Check()
}

func (s *Service) recent(r *http.Request) ([]byte, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &AskError{"parameter_unknown", "the query cannot be read"}
	}
	a, err := askOf(q)
	if err != nil {
		return nil, err
	}
	if err := s.bookings.loading(); err != nil {
		return nil, err
	}
	return s.bookings.document(&a)
}

func (s *Service) snapshot(r *http.Request) ([]byte, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &AskError{"parameter_unknown", "the query cannot be read"}
	}
	a, err := askOf(q)
	if err != nil {
		return nil, err
	}
	if err := s.bookings.loading(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), takeLimit)
	defer cancel()
	taken, err := s.publisher.take(ctx, a)
	if err != nil {
		return nil, err
	}
	return json.Marshal(taken)
}

var snapshotReader = sync.OnceValue(func() *schemas.EventReader {
	r, err := schemas.NewEventReader(schemas.EventSchema("recent_reservations"))
	if err != nil {
		panic("BUG: our own event's schema is none of an event: " + err.Error())
	}
	return r
})

// document is a list as JSON: what a snapshot carries as its data, and how old it may be.
func (b *bookings) document(a *Ask) ([]byte, error) {
	b.mu.RLock()
	asOf := b.asOf
	b.mu.RUnlock()
	lines, about := b.latest(a.Company, a.Limit)
	avro, err := schemas.AppendSnapshot(nil, a.event(nil, about, asOf), lines)
	if err != nil {
		return nil, err
	}
	var m schemas.Meta
	rest, err := snapshotReader().Meta(avro, &m)
	if err != nil {
		return nil, err
	}
	doc := append(make([]byte, 0, 1024+bodyOfLine*len(lines)), `{"asOf":"`...)
	doc = append(doc, asOf.UTC().Format("2006-01-02T15:04:05.000Z")...)
	at := len(doc) + 1 // the brace of data becomes the comma behind asOf
	doc, _, err = snapshotReader().DataJSON(append(doc, '"'), rest)
	if err != nil {
		return nil, err
	}
	doc[at] = ','
	return append(doc, '\n'), nil
}
