package signature

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The vector of Standard Webhooks 1.0.0.
const (
	vectorSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID     = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTime   = 1614265330
	vectorBody   = `{"test": 2432232314}`
	vectorSig    = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func key(t *testing.T, text string) []byte {
	t.Helper()
	k, err := ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignGivesThePublishedVector(t *testing.T) {
	if got := Sign(key(t, vectorSecret), vectorID, vectorTime, []byte(vectorBody)); got != vectorSig {
		t.Fatalf("got %s, want %s", got, vectorSig)
	}
}

func TestEveryLiveSecretSignsNewestFirst(t *testing.T) {
	old, fresh := key(t, vectorSecret), bytes.Repeat([]byte{7}, 32)
	s := NewSigner(fresh, old)
	for range 2 { // the state is used again
		got := string(s.AppendSignature(nil, vectorID, []byte("1614265330"), []byte(vectorBody)))
		want := Sign(fresh, vectorID, vectorTime, []byte(vectorBody)) + " " + vectorSig
		if got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

func TestSigningAgainAllocatesNothing(t *testing.T) {
	s := NewSigner(key(t, vectorSecret), bytes.Repeat([]byte{1}, 64))
	dst, body := make([]byte, 0, 256), []byte(vectorBody)
	ts := []byte("1614265330")
	s.AppendSignature(dst, vectorID, ts, body)
	if n := testing.AllocsPerRun(100, func() { dst = s.AppendSignature(dst[:0], vectorID, ts, body) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestParseSecretBounds(t *testing.T) {
	of := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for text, ok := range map[string]bool{
		vectorSecret: true,
		strings.TrimPrefix(vectorSecret, "whsec_"): true,
		"whsec_" + of(24):                          true,
		"whsec_" + of(64):                          true,
		"whsec_" + of(23):                          false,
		"whsec_" + of(65):                          false,
		"whsec_":                                   false,
		"":                                         false,
		"whsk_" + of(32):                           false,
		"WHSEC_" + of(32):                          false,
		"whsec_" + strings.TrimRight(of(32), "="):   false, // padding
		"whsec_" + strings.Repeat("-_", 16):         false, // URL alphabet
		"whsec_" + of(24)[:16] + "\n" + of(24)[16:]: false, // the decoder skips line breaks
		"whsec_" + of(31)[:40] + "AB==":             false, // set bits behind the end
	} {
		k, err := ParseSecret(text)
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && len(text) > 10 && strings.Contains(err.Error(), text) {
			t.Errorf("%q: the error shows the secret", text)
		}
		if again, _ := ParseSecret(FormatSecret(k)); err == nil && !bytes.Equal(again, k) {
			t.Errorf("%q does not survive its own text", text)
		}
	}
}

func signed(id string, ts string, sigs string) http.Header {
	h := http.Header{}
	h.Set(HeaderID, id)
	h.Set(HeaderTimestamp, ts)
	h.Set(HeaderSignature, sigs)
	return h
}

func TestVerify(t *testing.T) {
	k, other := key(t, vectorSecret), bytes.Repeat([]byte{9}, 32)
	at := time.Unix(vectorTime, 0)
	const ts = "1614265330"
	min := 5 * time.Minute
	many := strings.Repeat("v1,AAAA ", maxSignatures) + vectorSig
	tests := []struct {
		name    string
		secrets [][]byte
		header  http.Header
		body    string
		now     time.Time
		want    error
	}{
		{"good", [][]byte{k}, signed(vectorID, ts, vectorSig), vectorBody, at, nil},
		{"second secret", [][]byte{other, k}, signed(vectorID, ts, vectorSig), vectorBody, at, nil},
		{"second signature", [][]byte{k}, signed(vectorID, ts, "v1,AAAA "+vectorSig), vectorBody, at, nil},
		{"unknown scheme beside", [][]byte{k}, signed(vectorID, ts, "v1a,xyz "+vectorSig), vectorBody, at, nil},
		{"another scheme's name", [][]byte{k}, signed(vectorID, ts, "v2"+vectorSig[2:]), vectorBody, at, ErrMismatch},
		{"no secret", nil, signed(vectorID, ts, vectorSig), vectorBody, at, ErrMismatch},
		{"other secret", [][]byte{other}, signed(vectorID, ts, vectorSig), vectorBody, at, ErrMismatch},
		{"body changed", [][]byte{k}, signed(vectorID, ts, vectorSig), vectorBody + " ", at, ErrMismatch},
		{"id changed", [][]byte{k}, signed(vectorID+"x", ts, vectorSig), vectorBody, at, ErrMismatch},
		{"time changed", [][]byte{k}, signed(vectorID, "1614265331", vectorSig), vectorBody, at, ErrMismatch},
		{"signature cut", [][]byte{k}, signed(vectorID, ts, vectorSig[:len(vectorSig)-1]), vectorBody, at, ErrMismatch},
		{"too many signatures", [][]byte{k}, signed(vectorID, ts, many), vectorBody, at, ErrMismatch},
		{"no id", [][]byte{k}, signed("", ts, vectorSig), vectorBody, at, ErrMissingHeader},
		{"no time", [][]byte{k}, signed(vectorID, "", vectorSig), vectorBody, at, ErrMissingHeader},
		{"no signature", [][]byte{k}, signed(vectorID, ts, ""), vectorBody, at, ErrMissingHeader},
		{"time with a sign", [][]byte{k}, signed(vectorID, "+"+ts, vectorSig), vectorBody, at, ErrTimestamp},
		{"time with zeros", [][]byte{k}, signed(vectorID, "0"+ts, vectorSig), vectorBody, at, ErrTimestamp},
		{"time negative", [][]byte{k}, signed(vectorID, "-5", vectorSig), vectorBody, at, ErrTimestamp},
		{"time absurd", [][]byte{k}, signed(vectorID, "9223372036854775807", vectorSig), vectorBody, at, ErrTimestamp},
		{"time in ms", [][]byte{k}, signed(vectorID, ts+"000", vectorSig), vectorBody, at, ErrTimestamp},
		{"at the edge, old", [][]byte{k}, signed(vectorID, ts, vectorSig), vectorBody, at.Add(min), nil},
		{"too old", [][]byte{k}, signed(vectorID, ts, vectorSig), vectorBody, at.Add(min + time.Second), ErrTooOld},
		{"at the edge, new", [][]byte{k}, signed(vectorID, ts, vectorSig), vectorBody, at.Add(-min), nil},
		{"too new", [][]byte{k}, signed(vectorID, ts, vectorSig), vectorBody, at.Add(-min - time.Second), ErrTooNew},
	}
	for _, x := range tests {
		if err := Verify(x.secrets, x.header, []byte(x.body), x.now, min); !errors.Is(err, x.want) || (err == nil) != (x.want == nil) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
		}
	}
}

// Whatever is signed verifies, and one changed bit of it does not.
func FuzzSignedVerifies(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef"), "msg_1", int64(vectorTime), []byte(vectorBody), uint16(3))
	f.Fuzz(func(t *testing.T, secret []byte, id string, ts int64, body []byte, bit uint16) {
		ts &= 1<<36 - 1
		if id == "" {
			return
		}
		h := signed(id, strconv.FormatInt(ts, 10), Sign(secret, id, ts, body))
		now := time.Unix(ts, 0)
		if err := Verify([][]byte{secret}, h, body, now, 0); err != nil {
			t.Fatal(err)
		}
		if len(body) > 0 {
			body = bytes.Clone(body)
			body[int(bit/8)%len(body)] ^= 1 << (bit % 8)
			if Verify([][]byte{secret}, h, body, now, 0) == nil {
				t.Fatal("a changed body verifies")
			}
		}
	})
}

func BenchmarkSignKiB(b *testing.B) {
	s := NewSigner(make([]byte, 32))
	body, ts, dst := make([]byte, 1024), []byte("1614265330"), make([]byte, 0, 128)
	b.ReportAllocs()
	for b.Loop() {
		dst = s.AppendSignature(dst[:0], vectorID, ts, body)
	}
}
