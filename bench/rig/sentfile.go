package rig

import (
	"fmt"
	"os"
	"strconv"
)

// SentFile is the publisher's ledger on the disk. A batch stands in it before it is sent, and its fate after; so whatever dies in between, an event that may
// be in the log is in the file, and one without a fate is unknown.
//
// The file is text, tab between fields:
//
//	s  seq  company  entity  version  due      about to be sent
//	o  first  last  accepted|rejected|unknown  what the publisher was told of the events from first to last
type SentFile struct{ f *SyncFile }

// CreateSentFile makes the file.
func CreateSentFile(name string) (*SentFile, error) {
	f, err := CreateSyncFile(name, true)
	if err != nil {
		return nil, err
	}
	return &SentFile{f}, nil
}

// Before writes down a batch whose first event is number first, and returns when it is on the disk.
func (s *SentFile) Before(first int64, batch []Sent) error {
	return s.f.AppendSync(func(b []byte) []byte {
		for i := range batch {
			e := &batch[i]
			b = append(b, 's')
			for _, v := range []int64{first + int64(i), int64(e.Company), e.Entity, int64(e.Version), e.Due} {
				b = strconv.AppendInt(append(b, '\t'), v, 10)
			}
			b = append(b, '\n')
		}
		return b
	})
}

var fates = map[Fate]string{Accepted: "accepted", Rejected: "rejected", Unknown: "unknown"}

// After writes down what the publisher was told. It is on the disk with the next batch, or with Close: until then a death leaves the events unknown.
func (s *SentFile) After(first int64, batch []Sent) {
	s.f.Append(func(b []byte) []byte {
		for i := 0; i < len(batch); {
			j := i + 1
			for j < len(batch) && batch[j].Fate == batch[i].Fate {
				j++
			}
			b = fmt.Appendf(b, "o\t%d\t%d\t%s\n", first+int64(i), first+int64(j)-1, fates[batch[i].Fate])
			i = j
		}
		return b
	})
}

// Close syncs and closes.
func (s *SentFile) Close() error { return s.f.Close() }

// ReadSent reads a publisher's ledger: the number of its first event, and each event from there on. What has no fate is unknown.
func ReadSent(file string) (first int64, all []Sent, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, nil, err
	}
	for n := 1; len(data) > 0; n++ {
		line, rest, whole := cutLine(data)
		if !whole {
			break
		}
		data = rest
		f := fields{text: string(line)}
		switch kind, at := f.next(), f.int(); {
		case kind == "s":
			if len(all) == 0 {
				first = at
			}
			f.bad = f.bad || at != first+int64(len(all))
			all = append(all, Sent{Company: int(f.int()), Entity: f.int(), Version: int(f.int()), Due: f.int(), Fate: Unknown})
		case kind == "o":
			last := f.int()
			word := f.next()
			fate := Unsent
			for v, w := range fates {
				if w == word {
					fate = v
				}
			}
			if f.bad = f.bad || fate == Unsent || at < first || last < at || last >= first+int64(len(all)); f.bad {
				break
			}
			for i := at; i <= last; i++ {
				all[i-first].Fate = fate
			}
		default:
			f.bad = true
		}
		if f.bad {
			return 0, nil, fmt.Errorf("%s:%d: not a line of a publisher's ledger: %q", file, n, line)
		}
	}
	return first, all, nil
}
