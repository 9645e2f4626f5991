package secrets

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/hookferry/hookferry/schemas"
)

// DefaultKeysEnv is the environment variable that holds the keys when no file is configured.
const DefaultKeysEnv = "HOOKFERRY_SECRET_KEYS"

// Config says where the keys are. A key is "id:base64 of 32 bytes"; several stand on lines of their own in the file, or with commas between them in
// the environment. The first encrypts, all decrypt.
type Config struct {
	// KeyFile is a file of keys, one a line; empty lines and lines that start with # are skipped. Empty: the environment.
	KeyFile string `yaml:"key_file"`
	// KeysEnv names the environment variable with the keys. It is looked at only without a KeyFile.
	KeysEnv string `yaml:"keys_env"`
}

// DefaultConfig takes the keys from the environment.
func DefaultConfig() Config { return Config{KeysEnv: DefaultKeysEnv} }

// Validate reports every mistake at once, by field name.
func (c Config) Validate() error {
	if c.KeysEnv != "" && !envName.MatchString(c.KeysEnv) {
		return fmt.Errorf("keys_env: %q is no name of an environment variable", c.KeysEnv)
	}
	return nil
}

var (
	envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	keyName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,32}$`)
)

// KeyError says what is wrong with the keys, and what to run.
type KeyError struct{ code, sentence string }

func (e *KeyError) Error() string { return e.sentence }

// Code is "secret_keys_missing" or "secret_keys_invalid".
func (e *KeyError) Code() string { return e.code }

const makeKeyFile = `printf 'k1:%s\n' "$(openssl rand -base64 32)" > hookferry.keys && chmod 600 hookferry.keys`

func missing(where string) error {
	return &KeyError{"secret_keys_missing", where + " Signing secrets are encrypted at rest, and there is no start without a key. Make one, give the same to" +
		" every process, and keep it as you keep the secrets: " + makeKeyFile + " ; then set secrets.key_file to its path"}
}

func invalid(format string, args ...any) error {
	return &KeyError{"secret_keys_invalid", fmt.Sprintf(format, args...)}
}

// Keyring encrypts and decrypts what lies at rest. It is immutable, safe for concurrent use, and prints as its key ids.
type Keyring struct {
	first string
	aeads map[string]cipher.AEAD
	ids   []string
}

// Load reads the keys that c names. Without any, the error says how to make one.
func Load(c Config) (*Keyring, error) {
	if c.KeyFile != "" {
		text, err := os.ReadFile(c.KeyFile)
		if errors.Is(err, os.ErrNotExist) {
			return nil, missing(fmt.Sprintf("The key file %s does not exist.", c.KeyFile))
		}
		if err != nil {
			return nil, invalid("The key file cannot be read: %v", err)
		}
		return NewKeyring(string(text))
	}
	name := c.KeysEnv
	if name == "" {
		name = DefaultKeysEnv
	}
	text := os.Getenv(name)
	if strings.TrimSpace(text) == "" {
		return nil, missing(fmt.Sprintf("secrets.key_file is not set and the environment variable %s is empty.", name))
	}
	return NewKeyring(text)
}

// NewKeyring reads keys from a text, with line ends or commas between them. Its errors never quote a key.
func NewKeyring(text string) (*Keyring, error) {
	k := &Keyring{aeads: map[string]cipher.AEAD{}}
	for i, line := range strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == ',' }) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		id, encoded, ok := strings.Cut(line, ":")
		if !ok || !keyName.MatchString(id) {
			return nil, invalid("Key %d is not of the form id:base64, where the id has 1 to 32 letters, digits, '.', '_' or '-'.", i+1)
		}
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(key) != 32 {
			return nil, invalid("Key %q is not the base64 of 32 bytes (openssl rand -base64 32 makes one).", id)
		}
		if k.aeads[id] != nil {
			return nil, invalid("The key id %q stands twice.", id)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			panic("BUG: 32 bytes are a key: " + err.Error())
		}
		if k.aeads[id], err = cipher.NewGCM(block); err != nil {
			panic("BUG: AES has GCM: " + err.Error())
		}
		k.ids = append(k.ids, id)
	}
	if len(k.ids) == 0 {
		return nil, missing("There is no key in the text that should hold them.")
	}
	k.first = k.ids[0]
	return k, nil
}

// Generate makes a keyring with one random key, for worlds that end with the process (dev, tests): what it sealed, nobody opens afterwards.
func Generate() *Keyring {
	key := make([]byte, 32)
	rand.Read(key)
	k, err := NewKeyring("generated:" + base64.StdEncoding.EncodeToString(key))
	if err != nil {
		panic("BUG: a generated key is a key: " + err.Error())
	}
	return k
}

// OpenError says why a sealed value cannot be opened. It is our own trouble, never the receiver's: who meets it waits for the operator.
type OpenError struct {
	Subscription, Field, KeyID string
	problem                    string
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("%s of %s, sealed with key %q, cannot be opened: %s", e.Field, e.Subscription, e.KeyID, e.problem)
}

// Code is the stable name of the error.
func (e *OpenError) Code() string { return "secret_unreadable" }

// Seal encrypts a value for one field of one subscription with the first key. A sealed value moved to another field or subscription does not open:
// who can write to the topic cannot have one company's token sent to another's URL. Nonces are random: good for 2^32 values under one key.
func (k *Keyring) Seal(subscription, field string, plain []byte) (schemas.Sealed, error) {
	if k == nil {
		return schemas.Sealed{}, missing("This process has no keys.")
	}
	aead := k.aeads[k.first]
	data := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	rand.Read(data)
	return schemas.Sealed{KeyID: k.first, Data: aead.Seal(data, data, plain, associated(subscription, field))}, nil
}

// Open decrypts what Seal made for the same field of the same subscription.
func (k *Keyring) Open(subscription, field string, s schemas.Sealed) (Secret, error) {
	fail := func(problem string) (Secret, error) {
		return Secret{}, &OpenError{subscription, field, s.KeyID, problem}
	}
	if k == nil {
		return fail("this process has no keys")
	}
	aead := k.aeads[s.KeyID]
	if aead == nil {
		return fail("no such key here (does every process have the same key file?)")
	}
	n := aead.NonceSize()
	if len(s.Data) < n+aead.Overhead() {
		return fail("it is cut short")
	}
	plain, err := aead.Open(nil, s.Data[:n], s.Data[n:], associated(subscription, field))
	if err != nil {
		return fail("it was changed, or belongs elsewhere, or the key has another value here")
	}
	return New(bytes.Clone(plain)), nil
}

// associated is what a sealed value is bound to. Lengths stand before the texts, so no two pairs run together.
func associated(subscription, field string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(subscription)))
	b = append(b, subscription...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(field)))
	return append(b, field...)
}

// Keys are the ids of the keys, the encrypting one first.
func (k *Keyring) Keys() []string { return append([]string(nil), k.ids...) }

// String names the keys.
func (k *Keyring) String() string { return fmt.Sprintf("keyring%v", k.Keys()) }

// GoString hides the keys from %#v.
func (k *Keyring) GoString() string { return k.String() }

// Format hides the keys from every verb.
func (k *Keyring) Format(f fmt.State, verb rune) { io.WriteString(f, k.String()) }
