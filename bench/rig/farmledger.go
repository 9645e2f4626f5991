package rig

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/hookferry/hookferry/deliverer/signature"
)

// This file is the farm with a ledger on the disk: see Request for what a line holds.

// keys are the secrets of one receiver, newest first, for both who verify.
type keys struct {
	own [][]byte
	ref []*standardwebhooks.Webhook
}

// parseKeys reads secrets as whsec_ texts.
func parseKeys(texts []string) (*keys, error) {
	k := &keys{}
	for _, t := range texts {
		own, err := signature.ParseSecret(t)
		if err != nil {
			return nil, err
		}
		ref, err := standardwebhooks.NewWebhook(t)
		if err != nil {
			return nil, err
		}
		k.own, k.ref = append(k.own, own), append(k.ref, ref)
	}
	return k, nil
}

// verify asks both. The reference reads the real clock, so at must be now.
func (k *keys) verify(h *head, body []byte, at time.Time) (own, ref Check) {
	if k == nil {
		return NoSecret, NoSecret
	}
	header := http.Header{"Webhook-Id": {h.id}, "Webhook-Timestamp": {h.stamp}, "Webhook-Signature": {h.sig}}
	own = Valid
	if err := signature.Verify(k.own, header, body, at, signature.DefaultTolerance); err != nil {
		own = refusal(err)
	}
	ref = NoSecret
	for _, w := range k.ref {
		err := w.Verify(body, header)
		if ref = Valid; err == nil {
			break
		}
		ref = refusal(err)
	}
	return own, ref
}

// refusal is an error as one field of a line.
func refusal(err error) Check {
	for code, errs := range map[Check][]error{
		"old":       {signature.ErrTooOld, standardwebhooks.ErrMessageTooOld},
		"new":       {signature.ErrTooNew, standardwebhooks.ErrMessageTooNew},
		"mismatch":  {signature.ErrMismatch, standardwebhooks.ErrNoMatchingSignature},
		"missing":   {signature.ErrMissingHeader, standardwebhooks.ErrRequiredHeaders},
		"timestamp": {signature.ErrTimestamp, standardwebhooks.ErrInvalidHeaders},
	} {
		if slices.ContainsFunc(errs, func(e error) bool { return errors.Is(err, e) }) {
			return code
		}
	}
	return "error"
}

// keep reads one request's body, writes it down, meets it as the script says, and writes down how it ended. False: the connection is over.
func (f *Farm) keep(c net.Conn, r *bufio.Reader, file *SyncFile, s *script, b *behaviour, h head, body []byte) bool {
	q := Request{N: f.n.Add(1), Path: h.path, ID: h.id, Attempt: int32(h.attempt), Expected: int32(h.length), Status: int16(b.status), Own: Unread, Ref: Unread, Sum: "-", Seq: -1}
	q.Stamp, _ = strconv.ParseInt(h.stamp, 10, 64)
	if b.early {
		return f.early(c, r, file, s, b, &q, &h, body)
	}
	n, err := io.ReadFull(r, body)
	now := time.Now()
	q.At, q.Received = now.UnixNano(), int32(n)
	if err != nil {
		q.Status = 0
		file.Append(func(b []byte) []byte { return appendEnd(q.append(b), q.N, q.At, Cut, n) })
		return false
	}
	q.read(body)
	q.Own, q.Ref = s.ledger.keys.Load().verify(&h, body, now)
	if b.status/100 != 2 {
		file.Append(q.append)
	} else if err := file.AppendSync(q.append); err != nil {
		fmt.Fprintln(os.Stderr, "farm: ledger:", err) // nothing that is not on the disk is answered
		return false
	}
	done, ok := b.meet(c, r)
	outcome := Answered
	if !ok || (b.delay > 0 || b.drip) && gone(c, r) {
		outcome = Cut
	}
	file.Append(func(b []byte) []byte { return appendEnd(b, q.N, done.UnixNano(), outcome, n) })
	f.kept(s, &q, done)
	return ok
}

// kept counts a request that is over, and remembers it for those who ask while the run goes on.
func (f *Farm) kept(s *script, q *Request, done time.Time) {
	s.ledger.add(Entry{At: q.At, Done: done.UnixNano(), Due: q.Due, Seq: q.Seq, ID: q.ID, Attempt: int(q.Attempt), Status: int(q.Status)})
	if q.Status/100 == 2 {
		f.count.Add(1)
		s.ledger.deliver(q.Seq)
	}
}

// early answers before the body is read. What comes of the body stands in the line that ends the request.
func (f *Farm) early(c net.Conn, r *bufio.Reader, file *SyncFile, s *script, b *behaviour, q *Request, h *head, body []byte) bool {
	q.At = time.Now().UnixNano()
	if err := file.AppendSync(q.append); err != nil {
		fmt.Fprintln(os.Stderr, "farm: ledger:", err)
		return false
	}
	done, ok := b.meet(c, r)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := io.ReadFull(r, body)
	c.SetReadDeadline(time.Time{})
	outcome := Answered
	if !ok || err != nil {
		outcome = Cut
	} else {
		q.read(body)
		q.Own, q.Ref = s.ledger.keys.Load().verify(h, body, time.Now())
		q.Received = int32(n)
		f.kept(s, q, done)
	}
	file.Append(func(b []byte) []byte {
		if outcome == Answered {
			b = q.append(b) // once more, now with what the body says
		}
		return appendEnd(b, q.N, done.UnixNano(), outcome, n)
	})
	return outcome == Answered
}

// gone says whether the client has closed the connection.
func gone(c net.Conn, r *bufio.Reader) bool {
	if r.Buffered() > 0 {
		return false
	}
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := r.Peek(1)
	c.SetReadDeadline(time.Time{})
	var timeout net.Error
	return err != nil && !(errors.As(err, &timeout) && timeout.Timeout())
}

// read takes from the body what the ledger wants to know of it.
func (q *Request) read(body []byte) {
	sum := sha256.Sum256(body)
	q.Sum = hex.EncodeToString(sum[:])
	q.Seq, q.Due = mark(body)
	q.Event, q.Entity = textOf(body, `"eventId":"`), textOf(body, `"entityId":"`)
}

// textOf is the text that follows the first occurrence of a member's name.
func textOf(body []byte, name string) string {
	i := bytes.Index(body, []byte(name))
	if i < 0 {
		return ""
	}
	v, _, _ := bytes.Cut(body[i+len(name):], []byte(`"`))
	return string(v)
}

func (l *ledger) deliver(seq int64) {
	l.mu.Lock()
	if l.good == nil {
		l.good = map[int64]bool{}
	}
	l.good[seq] = true
	l.mu.Unlock()
}

// handleFiles adds what only the fault rig asks for.
//
//	POST /open      {"File","Sync"}: a new ledger; the one before is closed
//	POST /secret    {"Name","Secrets"}: what the requests for a receiver are signed with; stays after a reset
//	GET  /distinct  ?prefix=: (receiver, event) pairs answered with 2xx, counted once, since the last reset
func (f *Farm) handleFiles(mux *http.ServeMux) {
	mux.HandleFunc("POST /open", func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			File string
			Sync bool
		}
		err := json.NewDecoder(r.Body).Decode(&q)
		var file *SyncFile
		if err == nil && q.File != "" {
			file, err = CreateSyncFile(q.File, q.Sync)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.n.Store(0)
		if old := f.file.Swap(file); old != nil {
			old.Close()
		}
	})
	mux.HandleFunc("POST /secret", func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Name    string
			Secrets []string
		}
		err := json.NewDecoder(r.Body).Decode(&q)
		k, kerr := parseKeys(q.Secrets)
		if err = errors.Join(err, kerr); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.ledger(q.Name).keys.Store(k)
	})
	mux.HandleFunc("GET /distinct", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, f.distinct(r.FormValue("prefix"))) })
}

func (f *Farm) distinct(prefix string) (n int) {
	f.each(prefix, func(_ string, l *ledger) { n += len(l.good) })
	return n
}
