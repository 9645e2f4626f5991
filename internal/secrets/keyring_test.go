package secrets

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func key(c string) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(c, 32))) }

func ring(t *testing.T, text string) *Keyring {
	t.Helper()
	k, err := NewKeyring(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealedValuesOpenOnlyWhereTheyBelong(t *testing.T) {
	k := ring(t, "a:"+key("a"))
	s, err := k.Seal("sub_1", "secret/x", []byte(canary))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(s.Data, []byte(canary)) {
		t.Fatal("the sealed value shows its plain text")
	}
	if got, err := k.Open("sub_1", "secret/x", s); err != nil || string(got.Reveal()) != canary {
		t.Fatalf("Open: %v", err)
	}
	again, _ := k.Seal("sub_1", "secret/x", []byte(canary))
	if bytes.Equal(again.Data, s.Data) {
		t.Error("two seals of one value are equal: the nonce is not random")
	}
	refused := func(what string, err error) {
		t.Helper()
		var open *OpenError
		if !errors.As(err, &open) || open.Code() != "secret_unreadable" {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = k.Open("sub_2", "secret/x", s)
	refused("another subscription", err)
	_, err = k.Open("sub_1", "auth", s)
	refused("another field", err)
	_, err = k.Open("sub_1s", "ecret/x", s)
	refused("the same text, split elsewhere", err)
	_, err = ring(t, "a:"+key("b")).Open("sub_1", "secret/x", s)
	refused("another key under the same id", err)
	_, err = ring(t, "b:"+key("a")).Open("sub_1", "secret/x", s)
	refused("the same key under another id", err)
	var none *Keyring
	_, err = none.Open("sub_1", "secret/x", s)
	refused("no keyring", err)
	for i := range s.Data {
		changed := s
		changed.Data = bytes.Clone(s.Data)
		changed.Data[i] ^= 1
		_, err = k.Open("sub_1", "secret/x", changed)
		refused(fmt.Sprintf("bit flipped in byte %d", i), err)
		changed.Data = s.Data[:i]
		_, err = k.Open("sub_1", "secret/x", changed)
		refused(fmt.Sprintf("cut to %d bytes", i), err)
	}
}

func TestTheFirstKeyEncryptsAndAllDecrypt(t *testing.T) {
	old := ring(t, "old:"+key("o"))
	sealed, _ := old.Seal("sub_1", "auth", []byte(canary))
	both := ring(t, "# rotated in May\nnew:"+key("n")+"\r\n\n  old:"+key("o")+"\n")
	if got, err := both.Open("sub_1", "auth", sealed); err != nil || string(got.Reveal()) != canary {
		t.Errorf("the old key does not decrypt: %v", err)
	}
	if s, _ := both.Seal("sub_1", "auth", nil); s.KeyID != "new" {
		t.Errorf("key %q encrypts", s.KeyID)
	}
	if s := fmt.Sprintf("%v %+v %#v %s %x", both, both, both, both, both); strings.Contains(s, "nnn") || strings.Contains(s, "6e6e6e") {
		t.Errorf("a keyring prints its keys: %s", s)
	}
}

func TestLoadTakesTheFileOrTheEnvironment(t *testing.T) {
	t.Setenv(DefaultKeysEnv, "e1:"+key("1")+",e2:"+key("2"))
	k, err := Load(DefaultConfig())
	if err != nil || fmt.Sprint(k.Keys()) != "[e1 e2]" {
		t.Errorf("from the environment: %v %v", k, err)
	}
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte("f1:"+key("1")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if k, err = Load(Config{KeyFile: path}); err != nil || fmt.Sprint(k.Keys()) != "[f1]" {
		t.Errorf("from the file: %v %v", k, err)
	}
}

func TestKeyErrorsSayWhatToRunAndQuoteNoKey(t *testing.T) {
	t.Setenv("EMPTY_KEYS", " ")
	empty := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(empty, []byte("# nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []Config{{KeysEnv: "EMPTY_KEYS"}, {KeyFile: empty}, {KeyFile: empty + "-missing"}} {
		_, err := Load(c)
		var e *KeyError
		if !errors.As(err, &e) || e.Code() != "secret_keys_missing" || !strings.Contains(err.Error(), "openssl rand -base64 32") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	good := key("g")
	for _, text := range []string{"k1", ":" + good, "a b:" + good, "k1:" + good[:40], "k1:" + good + "x", "k1:" + base64.StdEncoding.EncodeToString([]byte("short")),
		"k1:" + good + "\nk1:" + key("h"), "k1:" + good + ",k2"} {
		_, err := NewKeyring(text)
		var e *KeyError
		if !errors.As(err, &e) || e.Code() != "secret_keys_invalid" {
			t.Errorf("%q: %v", text, err)
		} else if strings.Contains(err.Error(), good[:20]) {
			t.Errorf("the error quotes a key: %v", err)
		}
	}
	if err := (Config{KeysEnv: "a-b"}).Validate(); err == nil {
		t.Error("a name that no environment has is valid")
	}
}
