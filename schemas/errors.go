package schemas

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

// One value per reason, so that the hot path makes none.
var (
	errUnframed    = &DataError{Reason: "unframed"}          // neither framing's first bytes
	errTruncated   = &DataError{Reason: "truncated"}         // the input ends inside a value
	errTrailing    = &DataError{Reason: "trailing_bytes"}    // the input goes on behind the value
	errVarint      = &DataError{Reason: "varint_too_long"}   // more than 10 bytes, or more than 64 bits
	errIntRange    = &DataError{Reason: "int_range"}         // an int over 32 bits
	errBoolean     = &DataError{Reason: "bad_boolean"}       // neither 0 nor 1
	errNegative    = &DataError{Reason: "negative_length"}   //
	errUTF8        = &DataError{Reason: "invalid_utf8"}      //
	errNotFinite   = &DataError{Reason: "not_finite"}        // NaN or infinite
	errUnionIndex  = &DataError{Reason: "union_index"}       //
	errEnumIndex   = &DataError{Reason: "enum_index"}        //
	errBlockSize   = &DataError{Reason: "block_size"}        // a block whose byte size is not what it says
	errElements    = &DataError{Reason: "too_many_elements"} //
	errDepth       = &DataError{Reason: "too_deep"}          //
	errSize        = &DataError{Reason: "too_large"}         //
	errTimeRange   = &DataError{Reason: "time_range"}        // outside the years 0 to 9999, or a time of day outside the day
	errDecimal     = &DataError{Reason: "decimal_range"}     // more digits than the precision
	errDuplicate   = &DataError{Reason: "duplicate_key"}     // a map with one key twice
	errNotAnObject = &DataError{Reason: "not_an_event"}      //
)

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
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 16)
	for _, c := range fp {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}
