package kafka

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hookferry/hookferry/deliverer/egress"
)

// Password cannot be printed: every way to show it gives "[redacted]", and Reveal is the only way to its text.
type Password string

const redacted = "[redacted]"

// String hides the text.
func (Password) String() string { return redacted }

// Format hides the text from every verb, those that do not fit a string among them.
func (Password) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText hides the text from encoders (JSON, YAML, zap).
func (Password) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Reveal is the text.
func (p Password) Reveal() string { return string(p) }

// RegistryConfig says where the schema registry is. No URL: none is used, and events are framed with their fingerprint.
type RegistryConfig struct {
	URL      string        `yaml:"url"`      // base of its Confluent API, such as http://registry:8081 or http://apicurio:8080/apis/ccompat/v7
	User     string        `yaml:"user"`     // of HTTP basic authentication; empty: none
	Password Password      `yaml:"password"` //
	Timeout  time.Duration `yaml:"timeout"`  // of one request
}

// DefaultRegistryConfig is no registry, with the timeout that one would have.
func DefaultRegistryConfig() RegistryConfig { return RegistryConfig{Timeout: 5 * time.Second} }

// Validate names every mistake, by field.
func (c RegistryConfig) Validate() error {
	var errs []error
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
			errs = append(errs, errors.New("url: must be an http or https URL")) // not quoted: it may hold a password
		case u.User != nil:
			errs = append(errs, errors.New("url: must not hold a user; set user and password"))
		case u.RawQuery != "" || u.Fragment != "":
			errs = append(errs, errors.New("url: must not hold a query or fragment; paths are put behind it"))
		}
	}
	if c.Password != "" && c.User == "" {
		errs = append(errs, errors.New("password: needs a user"))
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > time.Minute {
		errs = append(errs, fmt.Errorf("timeout: %v is not within 100ms and 1m; a partition waits that long for a schema it has not seen", c.Timeout))
	}
	return errors.Join(errs...)
}

// The kinds of a RegistryError, for errors.Is.
var (
	// ErrUnknownSchema: the registry answered, and does not know the id. It may be registered a moment later.
	ErrUnknownSchema = errors.New("the schema registry does not know this schema")
	// ErrRegistryDown: nothing is known about the schema: no answer, or none that says so. Wait and ask again.
	ErrRegistryDown = errors.New("the schema registry does not answer")
	// ErrSchemaRefused: the registry will not take the schema: it is invalid, or not compatible with its subject's earlier ones.
	ErrSchemaRefused = errors.New("the schema registry refuses the schema")
)

// RegistryError is what a call to the registry ended with. It is one of the three kinds above.
type RegistryError struct {
	Kind      error
	Status    int // of HTTP; 0: no answer
	ErrorCode int // of the registry, such as 40403; 0: none
	Message   string

	tooLong bool // it answered 200 with more than is read
}

func (e *RegistryError) Error() string {
	s := e.Kind.Error()
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Status != 0 {
		s += " (HTTP " + strconv.Itoa(e.Status)
		if e.ErrorCode != 0 {
			s += ", code " + strconv.Itoa(e.ErrorCode)
		}
		s += ")"
	}
	return s
}

// Unwrap gives the kind.
func (e *RegistryError) Unwrap() error { return e.Kind }

// Code is the stable name of the error.
func (e *RegistryError) Code() string {
	switch e.Kind {
	case ErrUnknownSchema:
		return "schema_unknown"
	case ErrSchemaRefused:
		return "schema_refused"
	}
	return "registry_down"
}

// Registry is a client of a Confluent-compatible schema registry. What it learned it keeps for ever: an id never changes its schema. Errors are not
// kept. It is safe for use by many goroutines; it retries nothing, since its callers know how long they may wait.
type Registry struct {
	cfg    RegistryConfig
	base   string
	client *http.Client

	mu    sync.Mutex
	texts map[uint32]string
	ids   map[registration]uint32
}

type registration struct{ subject, text string }

// NewRegistry makes a client; nil without a URL. It makes no round trip. The operator named the host, so the guard that keeps receivers' URLs away
// from inner addresses does not apply to it.
func NewRegistry(cfg RegistryConfig) (*Registry, error) {
	if cfg.URL == "" {
		return nil, nil
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	var noPolicy *egress.Policy
	return &Registry{
		cfg: cfg, base: strings.TrimRight(cfg.URL, "/"), client: noPolicy.HTTPClient(cfg.Timeout, egress.Internal(), egress.MaxBody(maxRegistryAnswer)),
		texts: map[uint32]string{}, ids: map[registration]uint32{},
	}, nil
}

// Close drops idle connections.
func (r *Registry) Close() { r.client.CloseIdleConnections() }

// Register makes sure that the subject has this schema, and returns its id: the same one for the same schema, however often it is asked.
func (r *Registry) Register(ctx context.Context, subject, schemaText string) (uint32, error) {
	key := registration{subject, schemaText}
	r.mu.Lock()
	id, known := r.ids[key]
	r.mu.Unlock()
	if known {
		return id, nil
	}
	var answer struct {
		ID *uint32 `json:"id"`
	}
	if err := r.call(ctx, http.MethodPost, "/subjects/"+url.PathEscape(subject)+"/versions", schemaText, &answer); err != nil {
		return 0, refusedSchema(err)
	}
	if answer.ID == nil {
		return 0, &RegistryError{Kind: ErrRegistryDown, Status: http.StatusOK, Message: "the answer holds no id; is this a Confluent API?"}
	}
	r.mu.Lock()
	r.ids[key] = *answer.ID
	r.mu.Unlock()
	return *answer.ID, nil
}

// SchemaByID returns the text of a schema. ErrUnknownSchema only if the registry said that it does not know the id.
func (r *Registry) SchemaByID(ctx context.Context, id uint32) (string, error) {
	r.mu.Lock()
	text, known := r.texts[id]
	r.mu.Unlock()
	if known {
		return text, nil
	}
	if id > math.MaxInt32 { // a registry numbers with signed integers. To another it says that there is no such path, which is no answer about a schema
		return "", &RegistryError{Kind: ErrUnknownSchema, Message: "no registry gives the id " + strconv.FormatUint(uint64(id), 10)}
	}
	var answer struct {
		Schema string `json:"schema"`
		Type   string `json:"schemaType"`
	}
	err := r.call(ctx, http.MethodGet, "/schemas/ids/"+strconv.FormatUint(uint64(id), 10), "", &answer)
	var e *RegistryError
	if errors.As(err, &e) && (e.Status == http.StatusNotFound && e.ErrorCode == 40403 || e.tooLong) {
		e.Kind = ErrUnknownSchema // what is too long to be read is as good as not there: to wait for it would be to wait for ever
	}
	switch {
	case err != nil:
		return "", err
	case answer.Schema == "":
		return "", &RegistryError{Kind: ErrRegistryDown, Status: http.StatusOK, Message: "the answer holds no schema; is this a Confluent API?"}
	case answer.Type != "" && answer.Type != "AVRO":
		// Not ours to read, now or ever: to a reader of Avro there is no such schema.
		return "", &RegistryError{Kind: ErrUnknownSchema, Status: http.StatusOK, Message: "schema " + strconv.FormatUint(uint64(id), 10) + " is not Avro"}
	}
	r.mu.Lock()
	r.texts[id] = answer.Schema
	r.mu.Unlock()
	return answer.Schema, nil
}

// CheckCompatible asks whether the schema may follow the latest one of the subject, and if not, why. The first one of a subject always may.
func (r *Registry) CheckCompatible(ctx context.Context, subject, schemaText string) (bool, []string, error) {
	var answer struct {
		Compatible bool     `json:"is_compatible"`
		Messages   []string `json:"messages"`
	}
	err := r.call(ctx, http.MethodPost, "/compatibility/subjects/"+url.PathEscape(subject)+"/versions/latest?verbose=true", schemaText, &answer)
	var e *RegistryError
	if errors.As(err, &e) && e.Status == http.StatusNotFound && (e.ErrorCode == 40401 || e.ErrorCode == 40402) {
		return true, nil, nil
	}
	if err != nil {
		return false, nil, refusedSchema(err)
	}
	return answer.Compatible, answer.Messages, nil
}

// refusedSchema turns the two answers that a schema itself can cause into their kind.
func refusedSchema(err error) error {
	var e *RegistryError
	if errors.As(err, &e) && (e.Status == http.StatusConflict || e.Status == http.StatusUnprocessableEntity) {
		e.Kind = ErrSchemaRefused
	}
	return err
}

// maxRegistryAnswer is more than any schema that is read (1 MiB), escaped in JSON.
const maxRegistryAnswer = 4 << 20

// call makes one request. Its errors are ErrRegistryDown until the caller finds in status and code that they say more; the context's own stay
// what they are.
func (r *Registry) call(ctx context.Context, method, path, schemaText string, answer any) error {
	var body io.Reader
	if method == http.MethodPost {
		doc, err := json.Marshal(map[string]string{"schema": schemaText, "schemaType": "AVRO"})
		if err != nil {
			return err
		}
		body = bytes.NewReader(doc)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/vnd.schemaregistry.v1+json, application/json")
	req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	if r.cfg.User != "" {
		req.SetBasicAuth(r.cfg.User, r.cfg.Password.Reveal())
	}
	resp, err := r.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &RegistryError{Kind: ErrRegistryDown, Message: err.Error()}
	}
	defer resp.Body.Close()
	doc, err := io.ReadAll(resp.Body)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &RegistryError{Kind: ErrRegistryDown, Status: resp.StatusCode, Message: err.Error(),
			tooLong: resp.StatusCode == http.StatusOK && errors.Is(err, egress.ErrBodyTooLarge)}
	}
	if resp.StatusCode != http.StatusOK {
		return answered(resp.StatusCode, doc)
	}
	if err := json.Unmarshal(doc, answer); err != nil {
		return &RegistryError{Kind: ErrRegistryDown, Status: resp.StatusCode, Message: "the answer is not JSON; is this a Confluent API?"}
	}
	return nil
}

// answered makes an error of an answer other than 200.
func answered(status int, doc []byte) error {
	e := &RegistryError{Kind: ErrRegistryDown, Status: status}
	var says struct {
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}
	if json.Unmarshal(doc, &says) == nil {
		e.ErrorCode, e.Message = says.Code, says.Message
	}
	if e.Message == "" {
		switch {
		case status == http.StatusUnauthorized || status == http.StatusForbidden:
			e.Message = "are user and password right?"
		case status == http.StatusNotFound:
			e.Message = "is the path of its URL right?"
		case status >= 300 && status < 400:
			e.Message = "it redirects, which is not followed; is its URL right?"
		}
	}
	return e
}
