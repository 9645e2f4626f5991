package rig

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The requests that rules are about, by their numbers on the wire.
const (
	APIProduce      int16 = 0
	APIFetch        int16 = 1
	APIListOffsets  int16 = 2
	APIMetadata     int16 = 3
	APIOffsetCommit int16 = 8
	APIOffsetFetch  int16 = 9
	APICoordinator  int16 = 10
	APIJoinGroup    int16 = 11
	APIHeartbeat    int16 = 12
	APISyncGroup    int16 = 14
)

// Proxy stands between the services and the brokers, one port a broker, and does to single requests what networks and brokers do: it delays them, loses
// them, loses their answers, answers with a code instead of the broker, or falls silent. The brokers advertise the proxy's ports on a listener of their own
// (KAFKA_FRONT of kafka.sh), so no answer is rewritten for addresses; the rig's own client uses the other listener and feels nothing of it.
//
// One goroutine a connection: it takes a request, passes it on, and waits for the answer, as a broker does itself with the requests of one connection.
type Proxy struct {
	fronts []*front

	mu     sync.Mutex
	rules  []*Rule
	clocks []clock // ascending; none: the brokers' own

	ctx    context.Context
	cancel context.CancelFunc
	open   sync.WaitGroup
}

// Rule is what is done to the requests that it is about. The first one that stands and fits decides.
type Rule struct {
	API   []int16                                  // the kinds of requests; empty: all
	About func(topic string, partition int32) bool // only requests (produce, offset commit) that name such a partition; nil: all
	Every int                                      // every n-th of those; 0 or 1: each
	Most  int64                                    // after so many it rests; 0: never

	Delay       time.Duration // wait, then pass it on
	DropRequest bool          // cut the connection, pass nothing on
	DropAnswer  bool          // pass it on, wait for the answer, cut the connection
	// Code answers for the partitions that it is about (all of them without About) with an error, and passes on what is left: produce, offset commit
	// and heartbeat only. After: the broker does it all the same, only the answer says otherwise.
	Code  int16
	After bool

	met, hits atomic.Int64
}

// Hits is how many requests it was done to.
func (r *Rule) Hits() int64 { return r.hits.Load() }

// clock is by how much the brokers' clock is wrong from a moment on.
type clock struct {
	from int64 // ms, by the clock that is right
	off  int64 // ms
}

// Skew makes the brokers' clocks wrong by so much from now on, as far as the services can see: the append times in produce and fetch answers. A broker in libfaketime starts in more than a minute and misses its own heartbeats; this costs nothing, and a
// record that was stamped before a jump keeps its stamp.
func (p *Proxy) Skew(off time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clocks = append(p.clocks, clock{time.Now().UnixMilli(), off.Milliseconds()})
}

// StampOf is what the services see of a record that the broker stamped at (ms).
func (p *Proxy) StampOf(at int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range slices.Backward(p.clocks) {
		if at >= c.from {
			return at + c.off
		}
	}
	return at
}

func (p *Proxy) skewed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.clocks) > 0
}

// restamp turns the broker's times in an answer into those of its wrong clock.
func (p *Proxy) restamp(q *request, answer []byte) ([]byte, error) {
	if q.key != APIProduce && q.key != APIFetch {
		return answer, nil
	}
	m := kmsg.ResponseForKey(q.key)
	m.SetVersion(q.version)
	body := answer[8:]
	if m.IsFlexible() {
		body = body[1:]
	}
	if err := m.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("proxy: answer to %d v%d: %w", q.key, q.version, err)
	}
	switch m := m.(type) {
	case *kmsg.ProduceResponse:
		for i := range m.Topics {
			for j := range m.Topics[i].Partitions {
				if r := &m.Topics[i].Partitions[j]; r.LogAppendTime > 0 {
					r.LogAppendTime = p.StampOf(r.LogAppendTime)
				}
			}
		}
	case *kmsg.FetchResponse:
		for i := range m.Topics {
			for j := range m.Topics[i].Partitions {
				p.restampBatches(m.Topics[i].Partitions[j].RecordBatches)
			}
		}
	}
	return q.encode(m), nil
}

// stamped is restamp for a request as it came.
func (p *Proxy) stamped(req, answer []byte) ([]byte, error) {
	q, err := parseRequest(req)
	if err != nil {
		return nil, err
	}
	return p.restamp(q, answer)
}

// restampBatches changes the time of the batches that the broker stamped: those with bit 3 of their attributes. Where it lies: internal/kafka, stamp.
func (p *Proxy) restampBatches(b []byte) {
	be := binary.BigEndian
	for len(b) >= 61 {
		n := 12 + int(be.Uint32(b[8:]))
		if n < 61 || n > len(b) {
			return // the last one may be cut
		}
		if be.Uint16(b[21:])&8 != 0 {
			be.PutUint64(b[35:], uint64(p.StampOf(int64(be.Uint64(b[35:])))))
			be.PutUint32(b[17:], crc32.Checksum(b[21:n], crc32.MakeTable(crc32.Castagnoli)))
		}
		b = b[n:]
	}
}

// front is the port for one broker.
type front struct {
	p            *Proxy
	addr, broker string

	mu  sync.Mutex
	ln  net.Listener
	era *era
}

// era is the time between two silences. The connections that were open when a silence fell stay dead after it, as they do behind a firewall that has
// forgotten them: nothing comes over them, and nobody says so.
type era struct {
	mu     sync.Mutex
	silent bool
	conns  map[net.Conn]bool
}

func (e *era) add(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns[c] = true
}

func (e *era) drop(c net.Conn) {
	c.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
}

func (e *era) isSilent() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.silent
}

func (e *era) closeAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.conns {
		c.Close()
	}
}

// NewProxy listens for so many brokers.
func NewProxy(brokers int) (*Proxy, error) {
	p := &Proxy{}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for range brokers {
		f := &front{p: p, addr: loopback(FreePort()), broker: loopback(FreePort())}
		p.fronts = append(p.fronts, f)
		if err := f.listen(); err != nil {
			p.Close()
			return nil, err
		}
	}
	return p, nil
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// Addrs is where the services find the brokers.
func (p *Proxy) Addrs() []string {
	var out []string
	for _, f := range p.fronts {
		out = append(out, f.addr)
	}
	return out
}

// Env tells kafka.sh where each broker listens for the proxy, and which port it advertises there.
func (p *Proxy) Env() string {
	var list []string
	for _, f := range p.fronts {
		_, behind, _ := net.SplitHostPort(f.broker)
		_, before, _ := net.SplitHostPort(f.addr)
		list = append(list, behind+":"+before)
	}
	return "KAFKA_FRONT=" + strings.Join(list, " ")
}

// Close ends everything.
func (p *Proxy) Close() {
	p.cancel()
	for _, f := range p.fronts {
		f.refuse()
	}
	p.open.Wait()
}

// Add makes a rule stand until the returned function is called.
func (p *Proxy) Add(r *Rule) (remove func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, r)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.rules = slices.DeleteFunc(p.rules, func(q *Rule) bool { return q == r })
	}
}

// Refuse closes the ports: connections are reset, new ones refused, until the returned function is called.
func (p *Proxy) Refuse() (heal func() error) {
	for _, f := range p.fronts {
		f.refuse()
	}
	return func() error {
		var errs []error
		for _, f := range p.fronts {
			errs = append(errs, f.listen())
		}
		return errors.Join(errs...)
	}
}

// Silence lets nothing through any more and says nothing: what is sent vanishes, new connections are accepted and never served. After the returned
// function is called new connections work, and the old ones stay dead without a sign.
func (p *Proxy) Silence() (heal func()) {
	for _, f := range p.fronts {
		f.mu.Lock()
		f.era.mu.Lock()
		f.era.silent = true
		f.era.mu.Unlock()
		f.mu.Unlock()
	}
	return func() {
		for _, f := range p.fronts {
			f.mu.Lock()
			old := f.era
			f.era = &era{conns: map[net.Conn]bool{}}
			f.mu.Unlock()
			p.open.Go(func() { // dead connections end when their client lets go of them, or with us
				<-p.ctx.Done()
				old.closeAll()
			})
		}
	}
}

func (f *front) listen() error {
	ln, err := net.Listen("tcp", f.addr)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	f.mu.Lock()
	f.ln, f.era = ln, &era{conns: map[net.Conn]bool{}}
	f.mu.Unlock()
	f.p.open.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			e := f.era
			e.add(c)
			f.mu.Unlock()
			f.p.open.Go(func() {
				defer e.drop(c)
				f.serve(c, e)
			})
		}
	})
	return nil
}

func (f *front) refuse() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ln != nil {
		f.ln.Close()
		f.era.closeAll()
		f.ln = nil
	}
}

// serve passes the requests of one connection on, one after the other.
func (f *front) serve(client net.Conn, e *era) {
	if e.isSilent() {
		io.Copy(io.Discard, client)
		return
	}
	broker, err := net.DialTimeout("tcp", f.broker, 3*time.Second)
	if err != nil {
		return // a broker that is down: the client sees its connection end
	}
	e.add(broker)
	defer e.drop(broker)
	from, back := bufio.NewReaderSize(client, 16<<10), bufio.NewReaderSize(broker, 64<<10)
	for {
		req, err := readFrame(from)
		if err != nil {
			return
		}
		if e.isSilent() {
			io.Copy(io.Discard, client)
			return
		}
		answer, err := f.p.pass(req, broker, back)
		if err != nil {
			return
		}
		if f.p.skewed() {
			if answer, err = f.p.stamped(req, answer); err != nil {
				return
			}
		}
		if e.isSilent() { // it fell while the broker was at work: the answer is lost on its way
			io.Copy(io.Discard, client)
			return
		}
		if _, err := client.Write(answer); err != nil {
			return
		}
	}
}

// frameLimit is more than any request or answer has here.
const frameLimit = 256 << 20

// readFrame reads a length and as many bytes; the length stays in front of them.
func readFrame(r *bufio.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > frameLimit {
		return nil, fmt.Errorf("proxy: a frame of %d bytes", n)
	}
	b := make([]byte, 4+n)
	copy(b, head[:])
	_, err := io.ReadFull(r, b[4:])
	return b, err
}

var errCut = errors.New("proxy: the connection is to be cut")

// pass does what the rules say with a request and returns the answer for the client.
func (p *Proxy) pass(req []byte, broker net.Conn, back *bufio.Reader) ([]byte, error) {
	q, err := parseRequest(req)
	if err != nil {
		return nil, err
	}
	r := p.judge(q)
	if r == nil {
		return forward(req, broker, back)
	}
	if r.Delay > 0 {
		select {
		case <-time.After(r.Delay):
		case <-p.ctx.Done():
			return nil, p.ctx.Err()
		}
	}
	switch {
	case r.DropRequest:
		return nil, errCut
	case r.DropAnswer:
		forward(req, broker, back)
		return nil, errCut
	case r.Code != 0:
		return q.refuse(r, broker, back)
	}
	return forward(req, broker, back)
}

func forward(req []byte, broker net.Conn, back *bufio.Reader) ([]byte, error) {
	if _, err := broker.Write(req); err != nil {
		return nil, err
	}
	return readFrame(back)
}

// judge finds the rule for a request, and counts.
func (p *Proxy) judge(q *request) *Rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.rules {
		if len(r.API) > 0 && !slices.Contains(r.API, q.key) || r.Most > 0 && r.hits.Load() >= r.Most {
			continue
		}
		if r.About != nil && !q.names(r.About) {
			continue
		}
		if n := r.met.Add(1); r.Every > 1 && n%int64(r.Every) != 0 {
			continue
		}
		r.hits.Add(1)
		return r
	}
	return nil
}

// request is a frame whose head has been read; its body is only when a rule asks for it.
type request struct {
	key, version int16
	correlation  uint32
	frame        []byte
	body         []byte // behind the head
	msg          kmsg.Request
}

func parseRequest(frame []byte) (*request, error) {
	if len(frame) < 14 {
		return nil, errors.New("proxy: a request without a head")
	}
	be := binary.BigEndian
	q := &request{key: int16(be.Uint16(frame[4:])), version: int16(be.Uint16(frame[6:])), correlation: be.Uint32(frame[8:]), frame: frame}
	at := 14
	if n := int16(be.Uint16(frame[12:])); n > 0 {
		at += int(n)
	}
	if at > len(frame) {
		return nil, errors.New("proxy: a client id longer than its request")
	}
	q.body = frame[at:]
	return q, nil
}

// decode reads the body.
func (q *request) decode() error {
	if q.msg != nil {
		return nil
	}
	m := kmsg.RequestForKey(q.key)
	if m == nil {
		return fmt.Errorf("proxy: request %d is not known", q.key)
	}
	m.SetVersion(q.version)
	if m.IsFlexible() {
		if len(q.body) == 0 || q.body[0] != 0 {
			return errors.New("proxy: a head with tags")
		}
		q.body = q.body[1:]
	}
	if err := m.ReadFrom(q.body); err != nil {
		return fmt.Errorf("proxy: request %d v%d: %w", q.key, q.version, err)
	}
	q.msg = m
	return nil
}

// names says whether the request names a partition that about is true for.
func (q *request) names(about func(topic string, partition int32) bool) bool {
	if q.key != APIProduce && q.key != APIOffsetCommit {
		return false
	}
	if err := q.decode(); err != nil {
		panic("BUG: " + err.Error()) // our own client speaks what kmsg reads
	}
	switch m := q.msg.(type) {
	case *kmsg.ProduceRequest:
		for _, t := range m.Topics {
			for _, p := range t.Partitions {
				if about(t.Topic, p.Partition) {
					return true
				}
			}
		}
	case *kmsg.OffsetCommitRequest:
		for _, t := range m.Topics {
			for _, p := range t.Partitions {
				if about(t.Topic, p.Partition) {
					return true
				}
			}
		}
	}
	return false
}

// refuse answers for the partitions that the rule is about; the rest is the broker's to answer.
func (q *request) refuse(r *Rule, broker net.Conn, back *bufio.Reader) ([]byte, error) {
	if err := q.decode(); err != nil {
		return nil, err
	}
	about := r.About
	if about == nil {
		about = func(string, int32) bool { return true }
	}
	left := 0
	answer := q.msg.ResponseKind()
	answer.SetVersion(q.version)
	rest := q.msg
	switch m := q.msg.(type) {
	case *kmsg.ProduceRequest:
		rest, left = splitProduce(m, answer.(*kmsg.ProduceResponse), about, r.Code)
	case *kmsg.OffsetCommitRequest:
		rest, left = splitCommit(m, answer.(*kmsg.OffsetCommitResponse), about, r.Code)
	case *kmsg.HeartbeatRequest:
		answer.(*kmsg.HeartbeatResponse).ErrorCode = r.Code
	default:
		return nil, fmt.Errorf("proxy: no code can be given to request %d", q.key)
	}
	switch {
	case r.After:
		if _, err := forward(q.frame, broker, back); err != nil {
			return nil, err
		}
		if left > 0 {
			return nil, errors.New("proxy: a rule with After must be about all partitions of a request")
		}
	case left > 0:
		if err := q.forwardRest(rest, answer, broker, back); err != nil {
			return nil, err
		}
	}
	return q.encode(answer), nil
}

func splitProduce(m *kmsg.ProduceRequest, answer *kmsg.ProduceResponse, about func(string, int32) bool, code int16) (kmsg.Request, int) {
	rest, left := *m, 0
	rest.Topics = nil
	for _, t := range m.Topics {
		keep, no := t, kmsg.NewProduceResponseTopic()
		keep.Partitions, no.Topic = nil, t.Topic
		for _, p := range t.Partitions {
			if !about(t.Topic, p.Partition) {
				keep.Partitions = append(keep.Partitions, p)
				left++
				continue
			}
			n := kmsg.NewProduceResponseTopicPartition()
			n.Partition, n.ErrorCode, n.BaseOffset, n.LogAppendTime = p.Partition, code, -1, -1
			no.Partitions = append(no.Partitions, n)
		}
		if len(keep.Partitions) > 0 {
			rest.Topics = append(rest.Topics, keep)
		}
		if len(no.Partitions) > 0 {
			answer.Topics = append(answer.Topics, no)
		}
	}
	return &rest, left
}

func splitCommit(m *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, about func(string, int32) bool, code int16) (kmsg.Request, int) {
	rest, left := *m, 0
	rest.Topics = nil
	for _, t := range m.Topics {
		keep, no := t, kmsg.NewOffsetCommitResponseTopic()
		keep.Partitions, no.Topic = nil, t.Topic
		for _, p := range t.Partitions {
			if !about(t.Topic, p.Partition) {
				keep.Partitions = append(keep.Partitions, p)
				left++
				continue
			}
			n := kmsg.NewOffsetCommitResponseTopicPartition()
			n.Partition, n.ErrorCode = p.Partition, code
			no.Partitions = append(no.Partitions, n)
		}
		if len(keep.Partitions) > 0 {
			rest.Topics = append(rest.Topics, keep)
		}
		if len(no.Partitions) > 0 {
			answer.Topics = append(answer.Topics, no)
		}
	}
	return &rest, left
}

// forwardRest has the broker answer what is left of a request, and adds its answer.
func (q *request) forwardRest(rest kmsg.Request, answer kmsg.Response, broker net.Conn, back *bufio.Reader) error {
	head := len(q.frame) - len(q.body)
	w := rest.AppendTo(slices.Clone(q.frame[:head]))
	binary.BigEndian.PutUint32(w, uint32(len(w)-4))
	b, err := forward(w, broker, back)
	if err != nil {
		return err
	}
	b = b[8:] // length and correlation
	if rest.IsFlexible() {
		b = b[1:]
	}
	said := rest.ResponseKind()
	said.SetVersion(q.version)
	if err := said.ReadFrom(b); err != nil {
		return fmt.Errorf("proxy: answer to %d v%d: %w", q.key, q.version, err)
	}
	switch a := answer.(type) {
	case *kmsg.ProduceResponse:
		a.Topics = append(a.Topics, said.(*kmsg.ProduceResponse).Topics...)
	case *kmsg.OffsetCommitResponse:
		a.Topics = append(a.Topics, said.(*kmsg.OffsetCommitResponse).Topics...)
	}
	return nil
}

// encode makes a frame of an answer.
func (q *request) encode(m kmsg.Response) []byte {
	w := binary.BigEndian.AppendUint32(make([]byte, 4), q.correlation)
	if m.IsFlexible() {
		w = append(w, 0)
	}
	w = m.AppendTo(w)
	binary.BigEndian.PutUint32(w, uint32(len(w)-4))
	return w
}
