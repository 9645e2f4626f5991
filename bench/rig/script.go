package rig

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// script is what a path asks of the farm. A path is words that say how the receiver behaves, and its name:
//
//	/ok/NAME                  answers 200 at once
//	/status/503/NAME          answers that status
//	/after/7/...              with Retry-After: 7
//	/delay/50ms/...           answers after a while
//	/hang/NAME                reads the request and never answers
//	/reset/NAME               breaks the connection (RST) in the middle of its answer
//	/drip/...                 answers a byte each 100 ms
//	/early/NAME               answers 200 before it reads the body, then reads it
//	/redirect/302/NAME        points at /never/NAME, which nobody must ask for
//	/flap/2/...               does what the rest says on the first two tries of each task (nothing: 503), then answers 200
//	/some/8/flap/2/...        flaps so for one task in eight, and answers 200 to the others
//	/flap/3s/...              does what the rest says in every second 3 s, and answers 200 in between
//	/since/700000000/...      does what the rest says to events from that number on, and answers 200 to those before; not while there is a file
//
// Words may follow each other: /flap/2/delay/1s/status/500/NAME. The name is what comes after them, and may hold slashes.
type script struct {
	path, name string
	ledger     *ledger
	bad        behaviour // what the words say
	flap       int       // tries of each task that meet bad
	every      time.Duration
	some       int // flap for one task in so many; 0: for all
	flaps      bool
	good       behaviour // between the flaps
	since      int64     // bad is for the events from this number on
}

// behaviour is how one request is met.
type behaviour struct {
	status                          int // 0: none is ever answered
	delay                           time.Duration
	hang, reset, drip, early, never bool
	after                           string
	location                        string
	answer                          []byte
}

// Delivers says whether a receiver with this path answers 2xx sooner or later, to a request that is tried often enough.
func Delivers(path string) bool {
	s := parseScript(path, "")
	return s.flaps || s.bad.status/100 == 2 && !s.bad.early
}

// ReceiverName is the name in a path.
func ReceiverName(path string) string { return parseScript(path, "").name }

// parseScript reads a path; addr is the farm's, for redirects.
func parseScript(path, addr string) *script {
	s := &script{path: path, good: behaviour{status: 200}}
	b := behaviour{status: 200}
	said := false // a status
	rest := strings.TrimPrefix(path, "/")
	for {
		word, next, more := strings.Cut(rest, "/")
		if !more {
			break
		}
		arg, behind, _ := strings.Cut(next, "/")
		switch word {
		case "ok":
			behind = next
		case "hang", "reset", "drip", "early", "never":
			b.hang, b.reset, b.drip, b.early, b.never = b.hang || word == "hang", b.reset || word == "reset", b.drip || word == "drip", b.early || word == "early", b.never || word == "never"
			said, behind = said || word != "drip", next
		case "status":
			b.status, _ = strconv.Atoi(arg)
			said = true
		case "after":
			b.after = arg
		case "delay":
			b.delay, _ = time.ParseDuration(arg)
		case "redirect":
			b.status, _ = strconv.Atoi(arg)
			b.location, said = "redirect", true
		case "since":
			s.since, _ = strconv.ParseInt(arg, 10, 64)
		case "some":
			s.some, _ = strconv.Atoi(arg)
		case "flap":
			s.flaps = true
			if n, err := strconv.Atoi(arg); err == nil {
				s.flap = n
			} else {
				s.every, _ = time.ParseDuration(arg)
			}
		default:
			more = false
		}
		if !more {
			break
		}
		rest = behind
	}
	s.name = rest
	if s.flaps && !said {
		b.status = 503
	}
	if b.hang || b.reset {
		b.status = 0
	}
	if b.location != "" {
		b.location = "http://" + addr + "/never/" + s.name
	}
	s.bad = b
	s.bad.write()
	s.good.write()
	return s
}

// write makes the answer's bytes.
func (b *behaviour) write() {
	status := b.status
	if b.reset {
		status = 200 // cut before it is whole
	}
	b.answer = fmt.Appendf(nil, "HTTP/1.1 %d X\r\nContent-Length: 0\r\n", status)
	if b.after != "" {
		b.answer = fmt.Appendf(b.answer, "Retry-After: %s\r\n", b.after)
	}
	if b.location != "" {
		b.answer = fmt.Appendf(b.answer, "Location: %s\r\n", b.location)
	}
	b.answer = append(b.answer, "\r\n"...)
}

// now says how the request with this webhook-id is met: a flapping receiver counts the tries of each.
func (s *script) now(id string, at time.Time) *behaviour {
	switch {
	case !s.flaps:
		return &s.bad
	case s.some > 0 && fnv1a([]byte(id))%uint64(s.some) != 0:
	case s.every > 0:
		if at.UnixNano()/int64(s.every)%2 == 1 {
			return &s.bad
		}
	case s.ledger.try(id) <= s.flap:
		return &s.bad
	}
	return &s.good
}
