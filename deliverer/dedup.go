package deliverer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/fault"
)

// Marks are what Redis remembers of finished tries, so that a copy of a task (after a crash, a rebalance, a router that wrote a batch twice) is not
// sent again. They can only err towards sending: a mark is set after its outcome is durable, and where Redis does not answer nothing is known.
//
// The form. One hour's marks lie in Buckets small sets of 64-bit integers, named
//
//	<cluster id> ":" <hour, 3 characters> <bucket, 3 or 4 characters>
//
// and Redis packs such a set, while it has at most 512 members, into a sorted array of 8 bytes a member. 20 bits of the task id choose the bucket, the
// next 64 are the member, mixed with round and attempt; so 80 bits or more are compared, and all marks of one task lie in one set. A task is looked up
// in the running and the last hour, both its marks (this attempt's and the end's) with one SMISMEMBER an hour: two commands for a look-up, one for a
// mark. Buckets expire an hour after they can last be asked for, spread over ten minutes.
//
// Expiry is set when a process first touches a bucket in an hour, not with every mark. A flush would leave later buckets without one; therefore every
// batch of marks also asks for a sentinel key, and when that is gone all of them are set anew.
//
// Seen and Set have a connection each, so that marking never delays a look-up.
type Marks struct {
	cfg     RedisConfig
	prefix  string
	sentry  string // name of the sentinel key
	shift   uint   // of a task's 20 bucket bits
	seen    *link
	set     *link
	armed   armed
	about   []int // of the batch under way on the set link, by command; like armed it belongs to whoever holds that link
	lost    atomic.Int64
	enabled bool

	owedMu sync.Mutex
	owed   []Mark // that Redis did not take, the oldest first; at most owedMost
}

// Mark names one mark: try number Attempt of the task's round ended, or, with Attempt 0, the round's task itself did. Below 0: somebody has try number -Attempt
// in hand (inhand.go).
type Mark struct {
	TaskID  string
	Round   int64
	Attempt int32
}

// armed remembers which buckets of the running hour have their expiry. It belongs to whoever holds the set link.
type armed struct {
	hour   int64
	sentry bool
	bucket []uint64 // bits
}

const (
	hourSeconds = 3600
	// clockSkew is how far the clocks of two deliverers may differ around a full hour; it is the skew at which sending is held.
	clockSkew = 120 * time.Second
	// sentryHours is how long the sentinel outlives its last renewal.
	sentryHours = 3
)

// NewMarks returns marks that connect when they are first used. clusterID keeps the deployments that share a Redis apart.
func NewMarks(cfg RedisConfig, clusterID string, log *zap.Logger) (*Marks, error) {
	secure, err := cfg.tlsConfig()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = zap.NewNop()
	}
	m := &Marks{cfg: cfg, prefix: clusterID + ":", enabled: cfg.Addr != "" || cfg.Dial != nil}
	m.sentry = m.prefix + "up"
	m.shift = bucketBits - uint(log2(cfg.Buckets))
	m.armed.bucket = make([]uint64, cfg.Buckets/64)
	m.seen = newLink(cfg, secure, log.With(zap.String("link", "look-ups")))
	m.set = newLink(cfg, secure, log.With(zap.String("link", "marks")))
	return m, nil
}

// dialRedis is the one place that opens a connection to Redis.
func dialRedis(ctx context.Context, cfg RedisConfig) (net.Conn, error) {
	if cfg.Dial != nil {
		return cfg.Dial(ctx, "tcp", cfg.Addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", cfg.Addr)
}

func log2(n int) (bits int) {
	for ; n > 1; n >>= 1 {
		bits++
	}
	return bits
}

// Close ends both connections and returns when everything they started has ended.
func (m *Marks) Close() {
	m.seen.close()
	m.set.close()
}

// Lost counts how often Redis was found to have lost its keys since this process knew it.
func (m *Marks) Lost() int64 { return m.lost.Load() }

// place is where a mark lies: its bucket, and what is compared in it.
type place struct {
	bucket uint32
	member int64
}

// placeOf maps a mark. Task ids are base32 of a hash, so their bits are as good as random; any other id is hashed first.
func (m *Marks) placeOf(k Mark) place {
	bucket, member := idBits(k.TaskID)
	// Rounds and attempts of one task never meet: mix64 is a bijection, and both fit side by side.
	if own := uint64(k.Round)<<20 ^ uint64(uint32(k.Attempt)); own != 0 {
		member ^= mix64(own)
	}
	return place{bucket >> m.shift, int64(member)}
}

// idBits returns 20 bits of a task id to choose the bucket and the 64 after them.
func idBits(id string) (bucket uint32, member uint64) {
	if len(id) >= 17 {
		bad := byte(0)
		for i := range 17 {
			v := base32Value[id[i]]
			bad |= v
			if i < 4 {
				bucket = bucket<<5 | uint32(v)
			} else {
				member = member<<5 | uint64(v) // 13 x 5 bits: the first falls out
			}
		}
		if bad&0x80 == 0 {
			return bucket, member
		}
	}
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint32(sum[:]) >> (32 - bucketBits), binary.BigEndian.Uint64(sum[4:])
}

// base32Value gives each character of an id's alphabet its 5 bits, and 0x80 to all others.
var base32Value = func() (t [256]byte) {
	for i := range t {
		t[i] = 0x80
	}
	for i, c := range []byte("abcdefghijklmnopqrstuvwxyz234567") {
		t[c] = byte(i)
	}
	return t
}()

const keyDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"

// appendKey appends a bucket's name as a RESP bulk string.
func (m *Marks) appendKey(b []byte, hour int64, bucket uint32) []byte {
	digits := 3
	if m.cfg.Buckets > 1<<18 {
		digits = 4
	}
	b = append(b, '$')
	b = strconv.AppendInt(b, int64(len(m.prefix)+3+digits), 10)
	b = append(append(b, "\r\n"...), m.prefix...)
	for shift := 12; shift >= 0; shift -= 6 {
		b = append(b, keyDigits[hour>>shift&63])
	}
	for shift := 6 * (digits - 1); shift >= 0; shift -= 6 {
		b = append(b, keyDigits[bucket>>shift&63])
	}
	return append(b, "\r\n"...)
}

func appendBulk(b []byte, s string) []byte {
	b = append(b, '$')
	b = strconv.AppendInt(b, int64(len(s)), 10)
	return append(append(append(b, "\r\n"...), s...), "\r\n"...)
}

func appendBulkInt(b []byte, n int64) []byte {
	var text [20]byte
	t := strconv.AppendInt(text[:0], n, 10)
	b = append(b, '$')
	b = strconv.AppendInt(b, int64(len(t)), 10)
	return append(append(append(b, "\r\n"...), t...), "\r\n"...)
}

// askedHours returns the hours to look in: the running one, the last one, and within the clocks' tolerance of the next full hour that one too, where a
// deliverer whose clock is ahead already writes.
func askedHours(now time.Time, dst []int64) []int64 {
	hour := now.Unix() / hourSeconds
	dst = append(dst[:0], hour, hour-1)
	if next := now.Add(clockSkew).Unix() / hourSeconds; next != hour {
		dst = append(dst, next)
	}
	return dst
}

// Seen sets seen[i] if the attempt about to be made, tasks[i], has ended before, or its task has. open says that Redis did not answer in time: nothing
// is known then, and nothing is seen. One round trip.
func (m *Marks) Seen(ctx context.Context, tasks []Mark, seen []bool) (open bool) {
	return m.Look(ctx, tasks, seen, make([]bool, len(tasks)), nil)
}

// Look is Seen, and sets over[i] if it is the task that has ended. With inHand it also asks whether somebody has the try in hand.
func (m *Marks) Look(ctx context.Context, tasks []Mark, seen, over, inHand []bool) (open bool) {
	clear(seen[:len(tasks)])
	clear(over[:len(tasks)])
	clear(inHand)
	if len(tasks) == 0 {
		return false
	}
	if !m.enabled {
		return true
	}
	var buf [3]int64
	hours := askedHours(time.Now(), buf[:])
	extra := min(len(inHand), 1)
	err := m.seen.do(ctx, func(b []byte) ([]byte, int) {
		for _, t := range tasks {
			try := m.placeOf(t)
			end := m.placeOf(Mark{t.TaskID, t.Round, 0})
			for _, hour := range hours {
				b = append(append(b, '*', '4'+byte(extra)), "\r\n$10\r\nSMISMEMBER\r\n"...)
				b = m.appendKey(b, hour, try.bucket)
				b = appendBulkInt(appendBulkInt(b, try.member), end.member)
				if extra > 0 {
					b = appendBulkInt(b, m.placeOf(Mark{t.TaskID, t.Round, -t.Attempt}).member)
				}
			}
		}
		return b, len(tasks) * len(hours)
	}, func(r *replies) error {
		for i := range tasks {
			for range hours {
				var in [3]int64
				if err := r.counts(in[:2+extra]); err != nil {
					return err
				}
				seen[i] = seen[i] || in[0] != 0 || in[1] != 0
				over[i] = over[i] || in[1] != 0
				if extra > 0 {
					inHand[i] = inHand[i] || in[2] != 0
				}
			}
		}
		return nil
	})
	if err != nil {
		clear(seen[:len(tasks)])
		clear(over[:len(tasks)])
		clear(inHand)
	}
	return err != nil
}

const (
	// owedMost is how many marks are kept that Redis did not take: some 6 MiB. What is more errs towards sending.
	owedMost = 1 << 17
	// owedBatch is how many of them are set in one round trip, which has 50 ms.
	owedBatch = 2048
	// owedHope: somebody who hands over waits for a Redis that has failed for a moment, and not for one that is gone.
	owedHope = 4 * firstWait
)

// Set sets marks whose outcomes are durable. open says that Redis did not say so: some may be missing, and are owed until Settle. One round trip, two
// after a loss of its keys, one more if keys of ours held something else.
//
// Why they are owed, and not given up. This process remembers what it has finished (recent.go), but another may own the partition next. The sequence:
// Redis is slow for a tenth of a second, and the tasks of that moment are sent and get no mark; the router that made them dies before it commits; this
// deliverer is restarted; the router's successor makes the tasks again, the deliverer's successor finds no mark and sends all of them again, and
// nothing of that was under way.
func (m *Marks) Set(ctx context.Context, ms []Mark) (open bool) {
	if len(ms) == 0 {
		return false
	}
	if !m.enabled {
		return true
	}
	open = fault.Before(fault.FlushMarks) != nil || m.try(ctx, ms)
	if fault.After(fault.FlushMarks, nil) != nil || open {
		open = true
		m.owedMu.Lock()
		m.owed = append(m.owed, ms...)
		m.owed = m.owed[max(0, len(m.owed)-owedMost):]
		m.owedMu.Unlock()
	}
	return open
}

// Claim sets marks of tries that are in hand. Nothing is owed if Redis does not take them: they may have ended by the next time.
func (m *Marks) Claim(ctx context.Context, ms []Mark) (open bool) {
	if !m.enabled || len(ms) == 0 {
		return !m.enabled
	}
	open = fault.Before(fault.MarksClaim) != nil || m.try(ctx, ms)
	return fault.After(fault.MarksClaim, nil) != nil || open
}

// Settle sets what is owed, as far as Redis takes it. owes says that something still is; soon, that it may be worth waiting for.
func (m *Marks) Settle(ctx context.Context) (owes, soon bool) {
	m.owedMu.Lock()
	defer m.owedMu.Unlock()
	for len(m.owed) > 0 {
		n := min(len(m.owed), owedBatch)
		open := fault.Before(fault.MarksSettle) != nil || m.try(ctx, m.owed[:n])
		if fault.After(fault.MarksSettle, nil) != nil || open {
			m.set.whileLocked(func() { soon = m.set.wait <= owedHope })
			return true, soon
		}
		m.owed = m.owed[n:]
	}
	m.owed = nil
	return false, false
}

// Owes says whether some marks are owed.
func (m *Marks) Owes() bool {
	m.owedMu.Lock()
	defer m.owedMu.Unlock()
	return len(m.owed) > 0
}

// try is Set for marks that may be owed already.
func (m *Marks) try(ctx context.Context, ms []Mark) (open bool) {
	hour := time.Now().Unix() / hourSeconds
	var refused []Mark
	lost, err := m.setOnce(ctx, hour, nil, ms, &refused)
	if err != nil {
		m.set.whileLocked(func() { m.disarm(-1) })
		return true
	}
	if lost {
		m.lost.Add(1)
		m.set.whileLocked(func() { m.disarm(hour) })
		refused = refused[:0]
		_, err = m.setOnce(ctx, hour, nil, ms, &refused) // the same marks again: a set does not mind
	}
	if err == nil && len(refused) > 0 {
		// The name is ours, so what somebody put there may go: it would keep the marks of its bucket away until the hour ends. Another
		// deliverer that does the same at this moment may lose a mark by it, which errs towards sending.
		var still []Mark
		_, err = m.setOnce(ctx, hour, refused, refused, &still)
		return err != nil || len(still) > 0
	}
	return err != nil
}

// setOnce is one round trip: it removes the buckets of some marks, then sets marks. It appends to refused the marks whose bucket is no set.
func (m *Marks) setOnce(ctx context.Context, hour int64, remove, ms []Mark, refused *[]Mark) (lost bool, err error) {
	err = m.set.do(ctx, func(b []byte) ([]byte, int) {
		if m.armed.hour != hour {
			m.disarm(hour)
		}
		for _, k := range remove {
			p := m.placeOf(k)
			m.armed.bucket[p.bucket>>6] &^= 1 << (p.bucket & 63)
			b = m.appendKey(append(b, "*2\r\n$6\r\nUNLINK\r\n"...), hour, p.bucket)
		}
		b = m.appendSet(b, hour, ms)
		return b, len(remove) + len(m.about)
	}, func(r *replies) error {
		for range remove {
			if _, err := r.integer(); err != nil {
				return err
			}
		}
		for _, i := range m.about {
			n, err := r.integer()
			switch {
			case err == nil && i == aboutSentry: // of EXISTS; SET answers OK, which reads as 1
				lost = n == 0
			case errors.Is(err, errWrongType) && i >= 0:
				*refused = append(*refused, ms[i])
			case err != nil:
				return err
			}
		}
		return nil
	})
	return lost, err
}

// disarm forgets which buckets have their expiry.
func (m *Marks) disarm(hour int64) {
	m.armed.hour, m.armed.sentry = hour, false
	clear(m.armed.bucket)
}

// What a command of a batch is about, if not about setting a mark of that index.
const (
	aboutSentry = -1
	aboutExpiry = -2
)

// appendSet appends the commands of one Set: the sentinel's, then for each mark SADD and, the first time in this hour, the bucket's expiry. It leaves in
// about what each is for.
func (m *Marks) appendSet(b []byte, hour int64, ms []Mark) []byte {
	m.about = append(m.about[:0], aboutSentry)
	if m.armed.sentry {
		b = append(b, "*2\r\n$6\r\nEXISTS\r\n"...)
		b = appendBulk(b, m.sentry)
	} else {
		b = append(b, "*5\r\n$3\r\nSET\r\n"...)
		b = appendBulk(b, m.sentry)
		b = append(b, "$1\r\n1\r\n$2\r\nEX\r\n"...)
		b = appendBulkInt(b, sentryHours*hourSeconds)
		m.armed.sentry = true
	}
	for i, k := range ms {
		p := m.placeOf(k)
		b = append(b, "*3\r\n$4\r\nSADD\r\n"...)
		b = m.appendKey(b, hour, p.bucket)
		b = appendBulkInt(b, p.member)
		m.about = append(m.about, i)
		if bit := uint64(1) << (p.bucket & 63); m.armed.bucket[p.bucket>>6]&bit == 0 {
			m.armed.bucket[p.bucket>>6] |= bit
			b = append(b, "*3\r\n$8\r\nEXPIREAT\r\n"...)
			b = m.appendKey(b, hour, p.bucket)
			b = appendBulkInt(b, expiry(hour, p.bucket))
			m.about = append(m.about, aboutExpiry)
		}
	}
	return b
}

// expiry is when a bucket is forgotten: after the hour in which it is last asked for and the clocks' tolerance, spread so that Redis does not drop
// 65,536 keys in one moment.
func expiry(hour int64, bucket uint32) int64 {
	const spread = 600
	return (hour+2)*hourSeconds + int64(clockSkew/time.Second) + int64(bucket%spread)
}
