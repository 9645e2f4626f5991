package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hookferry/hookferry/schemas"
)

// documents reads events one by one from a stream: objects one behind the other, in arrays or not.
type documents struct {
	in      *bufio.Reader
	decoder *json.Decoder
	inArray bool
}

// maxDocument bounds what one document may be: an event is 1 MiB of Avro at most, and JSON a few times that.
const maxDocument = 16 << 20

func newDocuments(in io.Reader) *documents {
	d := &documents{in: bufio.NewReaderSize(in, 64<<10)}
	d.decoder = json.NewDecoder(d.in)
	return d
}

// buffered says whether the next document may be there already, without waiting for who writes it.
func (d *documents) buffered() bool {
	if d.inArray || d.in.Buffered() > 0 {
		return true
	}
	rest, ok := d.decoder.Buffered().(*bytes.Reader)
	if !ok {
		return true
	}
	b := make([]byte, rest.Len())
	rest.Read(b)
	return len(bytes.TrimSpace(b)) > 0
}

// next is the text of the next document; io.EOF at the end.
func (d *documents) next() (json.RawMessage, error) {
	for {
		if d.inArray && !d.decoder.More() {
			if _, err := d.decoder.Token(); err != nil {
				return nil, unexpected(err)
			}
			d.inArray = false
			continue
		}
		if !d.inArray && d.opensArray() {
			if _, err := d.decoder.Token(); err != nil {
				return nil, unexpected(err)
			}
			d.inArray = true
			continue
		}
		var doc json.RawMessage
		if err := d.decoder.Decode(&doc); err != nil {
			if d.inArray {
				err = unexpected(err)
			}
			return nil, err
		}
		if len(doc) > maxDocument {
			return nil, fmt.Errorf("the document is longer than %d bytes", maxDocument)
		}
		return doc, nil
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// opensArray looks at the first byte of what comes next, without taking it.
func (d *documents) opensArray() bool {
	rest, _ := io.ReadAll(d.decoder.Buffered())
	if t := bytes.TrimLeft(rest, " \t\r\n"); len(t) > 0 {
		return t[0] == '['
	}
	for {
		b, err := d.in.Peek(1)
		if err != nil {
			return false
		}
		if !strings.ContainsRune(" \t\r\n", rune(b[0])) {
			return b[0] == '['
		}
		d.in.Discard(1)
	}
}

// eventOf makes an event of a JSON document. What is missing in meta and can be derived is filled in. The error names every field that does not fit.
func eventOf(doc []byte, company string, now time.Time) (schemas.Event, error) {
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(doc, &parts); err != nil {
		return nil, &schemas.FieldError{Path: "document", Problem: "is not an object with meta and data"}
	}
	meta := map[string]json.RawMessage{}
	if raw, ok := parts["meta"]; !ok {
		return nil, &schemas.FieldError{Path: "meta", Problem: "is missing; it needs at least eventType and companyId"}
	} else if err := json.Unmarshal(raw, &meta); err != nil || meta == nil {
		return nil, &schemas.FieldError{Path: "meta", Problem: "is not an object"}
	}
	var name string
	if raw, ok := meta["eventType"]; !ok {
		return nil, &schemas.FieldError{Path: "meta.eventType", Problem: "is missing"}
	} else if err := json.Unmarshal(raw, &name); err != nil {
		return nil, &schemas.FieldError{Path: "meta.eventType", Problem: "is not a string"}
	}
	et, ok := schemas.EventTypeByName(name)
	if ok && et.Internal {
		return nil, &schemas.FieldError{Path: "meta.eventType", Problem: fmt.Sprintf("%q is made by Hookferry itself; run: hookferry recent snapshot", name)}
	}
	if !ok {
		return nil, &schemas.FieldError{Path: "meta.eventType", Problem: fmt.Sprintf("%q is none of the 26 event types; run: hookferry schemas list", name)}
	}
	fillMeta(meta, et, parts["data"], company, now)
	parts["meta"] = mustJSON(meta)
	s := schemas.EventSchema(et.Entity)
	body, err := s.EncodeJSON(nil, mustJSON(parts))
	if err != nil {
		return nil, err
	}
	ev := schemas.NewEvent(et.Entity)
	if err := ev.DecodeAvro(body); err != nil {
		return nil, errors.Join(errors.New("the event cannot be read back"), err)
	}
	return ev, nil
}

// fillMeta adds what is missing and can be derived.
func fillMeta(meta map[string]json.RawMessage, et schemas.EventType, data json.RawMessage, company string, now time.Time) {
	missing := func(field string, v any) {
		if raw, ok := meta[field]; !ok || string(raw) == "null" {
			meta[field] = mustJSON(v)
		}
	}
	var id [20]byte
	rand.Read(id[:])
	missing("eventId", "evt_"+hex.EncodeToString(id[:]))
	missing("entity", string(et.Kind))
	missing("action", string(et.Action))
	missing("groupId", et.GroupID)
	missing("typeId", et.TypeID)
	stamp := now.UTC().Truncate(time.Millisecond)
	missing("occurredAt", stamp.Format(time.RFC3339Nano))
	missing("publishedAt", stamp.Format(time.RFC3339Nano))
	missing("schemaVersion", schemas.EventSchemaVersion)
	if company != "" {
		missing("companyId", company)
	}
	if id, ok := meta["companyId"]; ok {
		missing("companyName", id)
		missing("tenantId", id)
	}
	version := stamp.UnixMilli()
	if et.Action == schemas.EventActionCreation {
		version = 1
	}
	missing("entityVersion", version)
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) == nil {
		if id, ok := fields[schemas.EntityIDField(et.Entity)]; ok {
			missing("entityId", id)
		}
	}
}

// mustJSON is for values that were JSON before, or are plain.
func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}
