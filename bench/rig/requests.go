package rig

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Outcome is how the farm was rid of a request.
type Outcome int8

const (
	Open     Outcome = iota // the ledger does not say: the farm ended first, or it is not over
	Answered                // the whole answer was handed to the kernel
	Cut                     // the connection broke before
)

// Check is what somebody who verifies says of a signature.
type Check string

const (
	Valid    Check = "ok"
	NoSecret Check = "nosecret" // the farm was not told it
	Unread   Check = "-"        // the body had not come when the line was written, or never came whole
)

// Request is one line of the farm's ledger: a request as it came, before anything was answered, and how it ended.
//
// The file is text, tab between fields, one line "r" when a request has been read (on the disk before a 2xx is answered), one line "e" when it is over:
//
//	r  number  unixnano  path  webhook-id  event  entity  seq  due  webhook-attempt  webhook-timestamp  own check  reference check  sha256  expected  received  status
//	e  number  unixnano  answered|cut  received
type Request struct {
	N        int64 // counted by the farm from 1
	At       int64 // UnixNano when the request had been read
	Done     int64 // UnixNano when the last of the answer was about to be written, or the request was given up; 0: see Open
	Due      int64 // UnixNano when the event was due at the publisher
	Seq      int64 // of the event; -1: none of ours
	Stamp    int64 // webhook-timestamp, Unix seconds
	Path     string
	Name     string // of the receiver
	ID       string // webhook-id
	Event    string
	Entity   string
	Own      Check // by deliverer/signature
	Ref      Check // by the library of the Standard Webhooks project
	Sum      string
	Expected int32 // bytes of body: Content-Length
	Received int32
	Attempt  int32
	Status   int16 // 0: never answered
	Outcome  Outcome
}

// Good: a whole request that was answered with 2xx, whether or not anybody heard the answer.
func (r *Request) Good() bool { return r.Status/100 == 2 && r.Done != 0 }

func (r *Request) append(b []byte) []byte {
	b = append(b, 'r', '\t')
	for _, v := range []int64{r.N, r.At} {
		b = append(strconv.AppendInt(b, v, 10), '\t')
	}
	for _, v := range []string{r.Path, r.ID, r.Event, r.Entity} {
		b = append(appendField(b, v), '\t')
	}
	for _, v := range []int64{r.Seq, r.Due, int64(r.Attempt), r.Stamp} {
		b = append(strconv.AppendInt(b, v, 10), '\t')
	}
	for _, v := range []string{string(r.Own), string(r.Ref), r.Sum} {
		b = append(append(b, v...), '\t')
	}
	b = append(strconv.AppendInt(b, int64(r.Expected), 10), '\t')
	b = append(strconv.AppendInt(b, int64(r.Received), 10), '\t')
	return append(strconv.AppendInt(b, int64(r.Status), 10), '\n')
}

// appendField keeps a text from being taken for more than one field.
func appendField(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c < ' ' {
			c = '?'
		}
		b = append(b, c)
	}
	return b
}

func appendEnd(b []byte, n, at int64, o Outcome, received int) []byte {
	b = append(strconv.AppendInt(append(b, 'e', '\t'), n, 10), '\t')
	b = append(strconv.AppendInt(b, at, 10), '\t')
	b = append(b, map[Outcome]string{Answered: "answered\t", Cut: "cut\t"}[o]...)
	return append(strconv.AppendInt(b, int64(received), 10), '\n')
}

// ReadRequests reads a farm's ledger, by number. A last line without its end was being written when the farm died, and is passed over.
func ReadRequests(file string) ([]Request, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []Request
	paths := map[string]string{} // path -> name
	for n := 1; len(data) > 0; n++ {
		line, rest, whole := cutLine(data)
		if !whole {
			break
		}
		data = rest
		f := fields{text: string(line)}
		kind, number := f.next(), f.int()
		if number < 1 || number > 1<<40 {
			f.bad = true
		}
		for !f.bad && int64(len(all)) < number {
			all = append(all, Request{Seq: -1})
		}
		switch {
		case f.bad:
		case kind == "r":
			f.request(&all[number-1], number, paths)
		case kind == "e":
			r := &all[number-1]
			r.Done = f.int()
			r.Outcome = map[string]Outcome{"answered": Answered, "cut": Cut}[f.next()]
			r.Received = int32(f.int())
		default:
			f.bad = true
		}
		if f.bad {
			return nil, fmt.Errorf("%s:%d: not a line of a farm's ledger: %q", file, n, line)
		}
	}
	return all, nil
}

func cutLine(b []byte) (line, rest []byte, whole bool) {
	return bytes.Cut(b, []byte{'\n'})
}

// fields takes a line apart. bad stays once a field was missing or no number.
type fields struct {
	text string
	bad  bool
}

func (f *fields) next() string {
	v, rest, _ := strings.Cut(f.text, "\t")
	f.text = rest
	return v
}

func (f *fields) int() int64 {
	v, err := strconv.ParseInt(f.next(), 10, 64)
	f.bad = f.bad || err != nil
	return v
}

func (f *fields) request(r *Request, number int64, paths map[string]string) {
	r.N, r.At, r.Path = number, f.int(), f.next()
	name, ok := paths[r.Path]
	if !ok {
		r.Path = strings.Clone(r.Path)
		name = ReceiverName(r.Path)
		paths[r.Path] = name
	}
	r.Name = name
	r.ID, r.Event, r.Entity = f.next(), f.next(), f.next()
	r.Seq, r.Due, r.Attempt, r.Stamp = f.int(), f.int(), int32(f.int()), f.int()
	r.Own, r.Ref, r.Sum = Check(f.next()), Check(f.next()), f.next()
	r.Expected, r.Received, r.Status = int32(f.int()), int32(f.int()), int16(f.int())
}

// Clock is how ledgers show a moment to a person.
func Clock(ns int64) string {
	if ns == 0 {
		return "-"
	}
	return time.Unix(0, ns).Format("15:04:05.000")
}
