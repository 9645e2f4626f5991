package schemas

// Schema is a compiled Avro schema. It is immutable and safe for use by many goroutines.
type Schema struct {
	text string
	fp   [8]byte
}

// Parse compiles a schema. It refuses recursive schemas and any that nest deeper than 64.
func Parse(text string) (*Schema, error) { panic("BUG: not there yet") }

// Fingerprint is the CRC-64-AVRO of the Parsing Canonical Form, little-endian, as it stands on the wire behind C3 01.
func (s *Schema) Fingerprint() [8]byte { return s.fp }

// Text is the schema as it was given to Parse.
func (s *Schema) Text() string { return s.text }
