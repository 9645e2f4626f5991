package recent

import "encoding/json"

// scan walks over JSON that this module's transcoder has written: without spaces, and known to be right; of what is not, it gives something, and ends. encoding/json takes ten times as long to leave out
// what is not asked for, which is nearly all of a booking, and a rebuild reads every booking there is.
type scan struct {
	b []byte
	p int
}

// peek is the first byte of the value at hand; 0 at the end.
func (s *scan) peek() byte {
	if s.p < len(s.b) {
		return s.b[s.p]
	}
	return 0
}

// object calls field for each field, which must read or skip its value. What is no object is skipped.
func (s *scan) object(field func(key []byte)) {
	if s.peek() != '{' {
		s.skip()
		return
	}
	for s.p++; s.peek() == '"'; s.comma() {
		key := s.quoted()
		if s.peek() != ':' {
			break
		}
		s.p++
		field(key[1 : len(key)-1])
	}
	s.p++
}

// array calls element for each element, which must read or skip it. What is no array is skipped.
func (s *scan) array(element func()) {
	if s.peek() != '[' {
		s.skip()
		return
	}
	for s.p++; s.peek() != ']'; s.comma() {
		at := s.p
		if element(); s.p == at {
			break
		}
	}
	s.p++
}

func (s *scan) comma() {
	if s.peek() == ',' {
		s.p++
	}
}

// quoted is a string as it stands, quotes and escapes included.
func (s *scan) quoted() []byte {
	start := s.p
	for s.p++; s.p < len(s.b) && s.b[s.p] != '"'; s.p++ {
		if s.b[s.p] == '\\' {
			s.p++
		}
	}
	s.p = min(s.p+1, len(s.b))
	return s.b[start:s.p]
}

// skip goes behind a value.
func (s *scan) skip() {
	depth := 0
	for s.p < len(s.b) {
		switch s.b[s.p] {
		case '"':
			s.quoted()
		case '{', '[':
			depth++
			s.p++
		case '}', ']':
			if depth == 0 { // behind a number, at the end of what it stands in
				return
			}
			depth--
			s.p++
		case ',':
			if depth == 0 {
				return
			}
			s.p++
			continue
		default:
			s.p++
			continue
		}
		if depth == 0 {
			return
		}
	}
}

// text reads a string; null, and what is no string, is nil.
func (s *scan) text() *string {
	if s.peek() != '"' {
		s.skip()
		return nil
	}
	q := s.quoted()
	for _, c := range q {
		if c == '\\' {
			var t string
			if json.Unmarshal(q, &t) != nil {
				return nil
			}
			return &t
		}
	}
	if len(q) < 2 {
		return nil
	}
	return new(string(q[1 : len(q)-1]))
}

// plain is text, empty for nil.
func (s *scan) plain() string {
	if t := s.text(); t != nil {
		return *t
	}
	return ""
}

// number reads a whole number as it is written; what is none is 0.
func (s *scan) number() (n int64) {
	start := s.p
	s.skip()
	if json.Unmarshal(s.b[start:s.p], &n) != nil {
		return 0
	}
	return n
}

func (s *scan) isTrue() bool {
	v := s.peek() == 't'
	s.skip()
	return v
}
