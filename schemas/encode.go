package schemas

// FieldError names one field of a JSON document that does not fit its schema.
type FieldError struct {
	Path    string
	Problem string
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Problem }

// Code is the stable name of the error.
func (e *FieldError) Code() string { return "field_invalid" }

// EncodeJSON appends the Avro binary of a plain JSON document.
func (s *Schema) EncodeJSON(dst, doc []byte) ([]byte, error) { panic("BUG: not there yet") }
