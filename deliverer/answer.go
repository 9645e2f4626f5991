package deliverer

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hookferry/hookferry/deliverer/egress"
	"github.com/hookferry/hookferry/schemas"
)

// Budgets of an answer. Whoever wants more of us than this is not answering a webhook.
const (
	readBuffer = 8 << 10  // a longer line is put together outside of it
	headMax    = 16 << 10 // all heads, interim ones too, and trailers
	bodyMax    = 64 << 10 // the body with its chunk framing; beyond it the connection is closed without draining
	keepBody   = 1 << 10  // of the body, for the attempt
	keepField  = 1 << 10  // of a field kept as text
	maxInterim = 8        // 1xx answers
	bodyWait   = time.Second
)

// errMalformed covers every answer that is not clean HTTP/1.x within the budgets. Its text is for the owner: it quotes nothing.
var errMalformed = errors.New("malformed answer")

func malformed(what string) error { return fmt.Errorf("%w: %s", errMalformed, what) }

var (
	fieldLength   = []byte("Content-Length")
	fieldCoding   = []byte("Transfer-Encoding")
	fieldConn     = []byte("Connection")
	fieldRetry    = []byte("Retry-After")
	fieldLocation = []byte("Location")
	fieldDelivery = []byte("webhook-delivery")
	valueChunked  = []byte("chunked")
	valueKeep     = []byte("keep-alive")
	valueDisable  = []byte("disable")
	valueAbort    = []byte("abort-message")
)

// reader reads one answer. It fails closed: what two programs could read differently is refused, and a connection is only kept if the answer's last
// byte was found for certain. It is lenient exactly where RFC 9112 demands it: folded lines are read as spaces (but not in fields that frame), the
// reason phrase may be missing, chunk extensions and trailers are skipped, equal Content-Lengths count once.
type reader struct {
	br         *bufio.Reader
	src        io.Reader
	conn       *conn // nil in tests of the reader alone
	deadline   time.Time
	received   int64
	headLeft   int
	bodyLeft   int
	inBody     bool // the status is read
	bodyWaited bool
}

// Read counts what the receiver sent; bufio calls it. A time-out before the deadline is that of an earlier send on this connection: the right one is set
// then, once. The wait for what is missing behind the status is bounded: a slow body must not hold a sender for the whole deadline. The usual answer comes in
// one piece, and is read before its status is.
func (r *reader) Read(p []byte) (int, error) {
	if r.inBody && !r.bodyWaited && r.conn != nil {
		r.bodyWaited = true
		if t := time.Now().Add(bodyWait); t.Before(r.deadline) {
			r.conn.SetReadDeadline(t)
			r.conn.until = time.Time{}
		}
	}
	n, err := r.src.Read(p)
	if n == 0 && r.conn != nil && r.conn.until.Before(r.deadline) && !r.conn.until.IsZero() && errors.Is(err, os.ErrDeadlineExceeded) {
		r.conn.until = r.deadline
		if err = r.conn.SetDeadline(r.deadline); err == nil {
			n, err = r.src.Read(p)
		}
	}
	r.received += int64(n)
	return n, err
}

func (r *reader) start(k *conn) {
	r.conn = k
	r.reset(k)
}

func (r *reader) reset(src io.Reader) {
	if r.br == nil {
		r.br = bufio.NewReaderSize(r, readBuffer)
	}
	r.src = src
	r.br.Reset(r)
	r.received, r.headLeft, r.bodyLeft, r.inBody, r.bodyWaited = 0, headMax, bodyMax, false, false
}

// release lets go of the connection, so that an idle sender holds none in memory.
func (r *reader) release() { r.src, r.conn = nil, nil }

// drained says that no byte came after the answer, as far as they were read.
func (r *reader) drained() bool { return r.br.Buffered() == 0 }

// answer reads interim answers and the final one. keep says that the connection may carry another request. Once a status is read the error is nil:
// the body decides nothing, and a faulty one costs the connection only.
func (r *reader) answer(k *conn, deadline time.Time, a *Answer) (keep bool, err error) {
	r.conn, r.deadline = k, deadline
	for range maxInterim + 1 {
		f, err := r.head(a)
		if err != nil {
			return false, err
		}
		if f.status >= 200 {
			a.Status = f.status
			return r.body(f, a) == nil && !f.close, nil
		}
		a.RetryAfter, a.Location, a.Disable, a.Abort = "", "", false, false // an interim answer decides nothing
	}
	return false, malformed("too many interim answers")
}

// line takes one line off a budget and returns it without its CRLF. A bare LF, a CR or another control character is refused.
func (r *reader) line(budget *int) ([]byte, error) {
	b, err := r.br.ReadSlice('\n')
	*budget -= len(b)
	if err == bufio.ErrBufferFull && *budget > 0 {
		b, err = r.longLine(b, budget)
	}
	switch {
	case *budget < 0 || err == bufio.ErrBufferFull:
		return nil, malformed("a line or all of them together are too long")
	case err != nil:
		return nil, err
	}
	text, ok := bytes.CutSuffix(b, []byte("\r\n"))
	if !ok || !isText(text) {
		return nil, malformed("a line holds a control character or does not end in CR LF")
	}
	return text, nil
}

// longLine reads on in a line that the buffer does not hold. So a field may be as long as the head may be, and yet the many senders that never see such a
// line do not each hold a buffer for one. What is put together goes with the line.
func (r *reader) longLine(begin []byte, budget *int) ([]byte, error) {
	line := append(make([]byte, 0, headMax), begin...)
	for {
		b, err := r.br.ReadSlice('\n')
		*budget -= len(b)
		if *budget < 0 || len(line)+len(b) > headMax { // a body has more budget than a line may have
			return nil, bufio.ErrBufferFull
		}
		if line = append(line, b...); err != bufio.ErrBufferFull {
			return line, err
		}
	}
}

// frame is what the head says about where the answer ends.
type frame struct {
	status  int
	length  int // -1: not given
	chunked bool
	close   bool
}

func (r *reader) head(a *Answer) (f frame, err error) {
	b, err := r.line(&r.headLeft)
	if err != nil {
		return f, err
	}
	if f, err = statusLine(b); err != nil {
		return f, err
	}
	framing, first := false, true
	for ; ; first = false {
		if b, err = r.line(&r.headLeft); err != nil {
			return f, err
		}
		if len(b) == 0 {
			break
		}
		if b[0] == ' ' || b[0] == '\t' {
			if first || framing {
				return f, malformed("a folded line where none may stand")
			}
			continue
		}
		if framing, err = f.field(b, a); err != nil {
			return f, err
		}
	}
	return f, f.end()
}

// statusLine reads "HTTP/1.d SP 3DIGIT [SP reason]" by position: nothing may be trimmed, signed or guessed.
func statusLine(b []byte) (f frame, err error) {
	if len(b) < 12 || string(b[:7]) != "HTTP/1." || b[7] < '0' || b[7] > '9' || b[8] != ' ' || len(b) > 12 && b[12] != ' ' {
		return f, malformed("no HTTP/1.1 status line")
	}
	for _, c := range b[9:12] {
		if c < '0' || c > '9' {
			return f, malformed("the status is no number")
		}
		f.status = f.status*10 + int(c-'0')
	}
	if f.status < 100 || f.status > 599 || f.status == 101 {
		return f, malformed("status " + strconv.Itoa(f.status))
	}
	f.close, f.length = b[7] == '0', -1
	return f, nil
}

// field reads one field line. framing says that the field has a part in where the answer ends.
func (f *frame) field(b []byte, a *Answer) (framing bool, err error) {
	name, value, ok := bytes.Cut(b, []byte(":"))
	if !ok || !isToken(name) {
		return false, malformed("a line that is no field")
	}
	value = bytes.Trim(value, " \t")
	switch {
	case bytes.EqualFold(name, fieldLength):
		n, ok := parseLength(value)
		if !ok || f.length >= 0 && f.length != n {
			return true, malformed("Content-Length")
		}
		f.length = n
		return true, nil
	case bytes.EqualFold(name, fieldCoding):
		if f.chunked || !bytes.EqualFold(value, valueChunked) {
			return true, malformed("Transfer-Encoding")
		}
		f.chunked = true
		return true, nil
	case bytes.EqualFold(name, fieldConn):
		f.close = f.close || !bytes.EqualFold(value, valueKeep)
		return true, nil
	case bytes.EqualFold(name, fieldRetry):
		a.RetryAfter = fieldText(value)
	case bytes.EqualFold(name, fieldLocation):
		a.Location = fieldText(value)
	case bytes.EqualFold(name, fieldDelivery):
		a.Disable = a.Disable || bytes.EqualFold(value, valueDisable)
		a.Abort = a.Abort || bytes.EqualFold(value, valueAbort)
	}
	return false, nil
}

// parseLength reads digits and nothing else; 15 of them are more than anybody sends.
func parseLength(b []byte) (n int, ok bool) {
	if len(b) == 0 || len(b) > 15 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

func fieldText(b []byte) string {
	return string(printable(append([]byte(nil), b[:min(len(b), keepField)]...)))
}

// end completes the frame when all fields are read.
func (f *frame) end() error {
	if f.chunked && f.length >= 0 {
		return malformed("Transfer-Encoding beside Content-Length")
	}
	if f.status < 200 || f.status == 204 || f.status == 304 {
		f.chunked, f.length = false, 0
	}
	if !f.chunked && f.length < 0 { // ended by the close: the prefix is all we want
		f.close, f.length = true, bodyMax+1
	}
	return nil
}

// body reads the body; its error means no more than that the connection must be closed.
func (r *reader) body(f frame, a *Answer) error {
	r.inBody = true
	if !f.chunked {
		return r.copy(f.length, a)
	}
	for {
		b, err := r.line(&r.bodyLeft)
		if err != nil {
			return err
		}
		n, ok := chunkSize(b)
		if !ok {
			return malformed("chunk size")
		}
		if n == 0 {
			break
		}
		if err = r.copy(n, a); err != nil {
			return err
		}
		if b, err = r.line(&r.bodyLeft); err != nil || len(b) > 0 {
			return cmp.Or(err, malformed("chunk end"))
		}
	}
	for { // trailers are only read to find their end; what is no field there may be the next answer's beginning
		b, err := r.line(&r.headLeft)
		if err != nil || len(b) == 0 {
			return err
		}
		if name, _, ok := bytes.Cut(b, []byte(":")); !ok || !isToken(name) {
			return malformed("trailer")
		}
	}
}

// chunkSize reads hexadecimal digits up to a semicolon; 12 of them are far over the budget already.
func chunkSize(b []byte) (n int, ok bool) {
	size, _, _ := bytes.Cut(b, []byte(";"))
	size = bytes.TrimRight(size, " \t")
	if len(size) == 0 || len(size) > 12 {
		return 0, false
	}
	for _, c := range size {
		switch {
		case '0' <= c && c <= '9':
			n = n<<4 | int(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			n = n<<4 | int(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}

// copy consumes n bytes of body and keeps those that fit the prefix; of too many it reads the prefix only.
func (r *reader) copy(n int, a *Answer) error {
	over := n > r.bodyLeft
	if r.bodyLeft -= n; over {
		n = keepBody
	}
	for n > 0 {
		if _, err := r.br.Peek(1); err != nil {
			return err
		}
		b, _ := r.br.Peek(min(n, r.br.Buffered()))
		a.Body = append(a.Body, b[:min(len(b), keepBody-len(a.Body))]...)
		r.br.Discard(len(b))
		n -= len(b)
	}
	if over {
		return malformed("body over budget")
	}
	return nil
}

// isText says whether bytes may stand in a line: everything but control characters, of which a tab is none.
func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isToken says whether bytes are a field name.
func isToken(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c > '~' || bytes.IndexByte([]byte(`"(),/:;<=>?@[\]{}`), c) >= 0 {
			return false
		}
	}
	return len(b) > 0
}

// printable makes bytes of a receiver safe to show: in place, every byte that is not part of a printable character, a tab or a line break becomes a
// dot. A character cut off at the end is left out.
func printable(b []byte) []byte {
	for i := 0; i < len(b); {
		c := b[i]
		if c >= ' ' && c < 0x7f || c == '\n' || c == '\t' {
			i++
			continue
		}
		r, size := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && size <= 1 && !utf8.FullRune(b[i:]) {
			return b[:i]
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			for j := range size {
				b[i+j] = '.'
			}
		}
		i += size
	}
	return b
}

type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// failConnect turns an error before the first byte of a request into the answer's failure. What the dialler says goes to our log only.
func failConnect(a *Answer, err error) {
	var shake *handshakeError
	var dial *egress.DialError
	switch {
	case errors.Is(err, errSenderClosed) || errors.Is(err, net.ErrClosed):
		a.fail(schemas.ReasonLocal, "stopped on our side", err)
	case errors.As(err, &shake):
		failHandshake(a, shake)
	case errors.As(err, &dial):
		a.Address = dial.Addr
		a.fail(reasonOfKind[dial.Kind], detailOfKind[dial.Kind], err)
	default:
		kind := egress.KindOf(err)
		a.fail(reasonOfKind[kind], detailOfKind[kind], err)
	}
}

var reasonOfKind = map[egress.Kind]schemas.Reason{
	egress.KindBlocked: schemas.ReasonBlocked,
	egress.KindDNS:     schemas.ReasonDNS,
	egress.KindLocal:   schemas.ReasonLocal,
	egress.KindRefused: schemas.ReasonRefused,
	egress.KindReset:   schemas.ReasonReset,
	egress.KindTimeout: schemas.ReasonTimeout,
}

var detailOfKind = map[egress.Kind]string{
	egress.KindBlocked: "the host may not be reached from here",
	egress.KindDNS:     "the host name does not exist",
	egress.KindLocal:   "not tried, for a reason on our side",
	egress.KindRefused: "the connection was refused",
	egress.KindReset:   "the connection was reset while it was made",
	egress.KindTimeout: "no connection in time",
}

// failHandshake says of a certificate what its owner must repair, and nothing that a port scanner could use.
func failHandshake(a *Answer, err *handshakeError) {
	var host x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	reason, detail := schemas.ReasonTLS, "the TLS handshake failed"
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		reason, detail = schemas.ReasonTimeout, "no TLS handshake in time"
	case errors.As(err, &host):
		detail = "the certificate is for another host name"
	case errors.As(err, &authority):
		detail = "the certificate is not signed by a known authority (is an intermediate certificate missing?)"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		detail = "the certificate has expired or is not valid yet"
	case errors.As(err, &invalid):
		detail = "the certificate is not valid"
	}
	a.fail(reason, detail, err)
}

// isTLSError recognises failures of an established TLS connection by type; alerts come as a net.OpError with an Op of their own.
func isTLSError(err error) bool {
	var op *net.OpError
	var record tls.RecordHeaderError
	return errors.As(err, &record) || errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error")
}
