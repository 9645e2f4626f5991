package schemas

import "strconv"

// DataError says why bytes are not what their schema says. Reason comes from the short list below and is stable: it goes into the header of an
// undecodable record. Path is where in the value, as far as it is known ("data.activities[2].total").
type DataError struct {
	Reason string
	Path   string
}

func (e *DataError) Error() string {
	if e.Path == "" {
		return "avro data: " + e.Reason
	}
	return "avro data: " + e.Path + ": " + e.Reason
}

// Code is the stable name of the error.
func (e *DataError) Code() string { return "undecodable" }

// inField and inElement add where the error was met, from the inside out, while it travels up. Only a refused value pays for that.
func (e *DataError) inField(name string) *DataError {
	return &DataError{Reason: e.Reason, Path: joinPath(name, e.Path)}
}

func (e *DataError) inElement(i int) *DataError {
	return &DataError{Reason: e.Reason, Path: joinPath("["+strconv.Itoa(i)+"]", e.Path)}
}

// joinPath writes a.b and a[0], as people write them.
func joinPath(a, b string) string {
	if b == "" || b[0] == '[' {
		return a + b
	}
	return a + "." + b
}

// Is makes errors.Is go by the reason.
func (e *DataError) Is(target error) bool {
	t, ok := target.(*DataError)
	return ok && t.Reason == e.Reason
}

// One value per reason, so that the hot path makes none.
var (
	errUnframed   = &DataError{Reason: "unframed"}          // neither framing's first bytes
	errTruncated  = &DataError{Reason: "truncated"}         // the input ends inside a value
	errTrailing   = &DataError{Reason: "trailing_bytes"}    // the input goes on behind the value
	errVarint     = &DataError{Reason: "varint_too_long"}   // more than 10 bytes, or more than 64 bits
	errIntRange   = &DataError{Reason: "int_range"}         // an int over 32 bits
	errBoolean    = &DataError{Reason: "bad_boolean"}       // neither 0 nor 1
	errNegative   = &DataError{Reason: "negative_length"}   // a length, count or size below 0
	errUTF8       = &DataError{Reason: "invalid_utf8"}      // in a string or a map's key
	errNotFinite  = &DataError{Reason: "not_finite"}        // NaN or infinite
	errUnionIndex = &DataError{Reason: "union_index"}       // a branch that the union does not have
	errEnumIndex  = &DataError{Reason: "enum_index"}        // a symbol that the enum does not have
	errBlockSize  = &DataError{Reason: "block_size"}        // a block whose byte size is not what it says
	errElements   = &DataError{Reason: "too_many_elements"} // over MaxElements
	errSize       = &DataError{Reason: "too_large"}         // over MaxInput, or MaxOutput as JSON
	errTimeRange  = &DataError{Reason: "time_range"}        // outside the years 0 to 9999, or a time of day outside the day
	errDecimal    = &DataError{Reason: "decimal_range"}     // more digits than the precision
	errDuplicate  = &DataError{Reason: "duplicate_key"}     // a map with one key twice
)

// DataReasons lists the reasons of a DataError.
func DataReasons() []string {
	var out []string
	for _, e := range []*DataError{errUnframed, errTruncated, errTrailing, errVarint, errIntRange, errBoolean, errNegative, errUTF8, errNotFinite, errUnionIndex,
		errEnumIndex, errBlockSize, errElements, errSize, errTimeRange, errDecimal, errDuplicate} {
		out = append(out, e.Reason)
	}
	return out
}

// NewerSchemaError: the record was written with a schema that this build does not hold. Our own records are read from one release on and
// written from the next, so the writer is newer than this process, and the way out is to upgrade it, never to skip the record.
type NewerSchemaError struct {
	Record      string
	Fingerprint [8]byte
}

func (e *NewerSchemaError) Error() string {
	return "a " + e.Record + " was written by a newer release (schema " + hexOf(e.Fingerprint) + "): upgrade this one"
}

// Code is the stable name of the error.
func (e *NewerSchemaError) Code() string { return "upgrade" }

func hexOf(fp [8]byte) string {
	out := make([]byte, 0, 16)
	for _, c := range fp {
		out = append(out, hexDigits[c>>4], hexDigits[c&15])
	}
	return string(out)
}
