package secrets

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"text/template"
	"unsafe"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const canary = "canary-7f3a91"

// outer holds secrets in every position in which fmt and friends meet them.
type outer struct {
	Public  Secret
	private Secret // fmt does not call its methods: it walks the fields by reflection
	Pointer *Secret
	List    []Secret
	Map     map[string]Secret
	Any     any
	nested  struct{ deep struct{ s Secret } }
}

func newOuter() outer {
	s := New([]byte(canary))
	o := outer{Public: s, private: s, Pointer: &s, List: []Secret{s}, Map: map[string]Secret{"k": s}, Any: s}
	o.nested.deep.s = s
	return o
}

// leaks says in which form the canary shows in a text.
func leaks(text string) string {
	lower := strings.ToLower(text)
	hex := fmt.Sprintf("%x", canary)
	decimals := strings.Trim(fmt.Sprint([]byte(canary)), "[]")
	for _, form := range []string{canary, hex, decimals, strings.ReplaceAll(decimals, " ", ", "), "Y2FuYXJ5"} {
		if strings.Contains(lower, strings.ToLower(form)) {
			return form
		}
	}
	return ""
}

func TestNoVerbPrintsASecret(t *testing.T) {
	s, o := New([]byte(canary)), newOuter()
	values := map[string]any{"value": s, "pointer": &s, "struct": o, "pointer to struct": &o, "list": []Secret{s}, "map": map[string]Secret{"a": s},
		"error": fmt.Errorf("wrapped: %v", s)}
	flags := []string{"", "+", "#", " ", "-", "0", "20", ".3", "+20", "#20", "-+# 012.7"}
	for name, v := range values {
		for verb := rune('A'); verb <= 'z'; verb++ {
			for _, flag := range flags {
				format := "%" + flag + string(verb)
				if form := leaks(fmt.Sprintf(format, v)); form != "" {
					t.Fatalf("%s of a %s shows %q", format, name, form)
				}
			}
		}
		for _, text := range []string{fmt.Sprint(v), fmt.Sprintln(v)} {
			if form := leaks(text); form != "" {
				t.Fatalf("Sprint of a %s shows %q", name, form)
			}
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %s %q %x %d", s, s, s, s, s, s, s); got != strings.TrimSpace(strings.Repeat(redacted+" ", 7)) {
		t.Errorf("printed as %s", got)
	}
}

func TestNoEncoderWritesASecret(t *testing.T) {
	s, o := New([]byte(canary)), newOuter()
	var b bytes.Buffer
	for _, v := range []any{s, &s, o, &o, []Secret{s}, map[string]Secret{"a": s}} {
		if j, err := json.Marshal(v); err != nil {
			t.Errorf("json: %v", err)
		} else {
			b.Write(j)
		}
		xml.NewEncoder(&b).Encode(v) // maps are refused: what it wrote until then counts
		gob.NewEncoder(&b).Encode(v)
		if err := template.Must(template.New("").Parse("{{.}}{{printf `%v %s` . .}}")).Execute(&b, v); err != nil {
			t.Errorf("template: %v", err)
		}
	}
	text, _ := s.MarshalText()
	b.Write(text)
	if form := leaks(b.String()); form != "" {
		t.Errorf("an encoder shows %q", form)
	}
	if j, _ := json.Marshal(map[string]any{"s": s}); string(j) != `{"s":"[redacted]"}` {
		t.Errorf("json: %s", j)
	}
}

func TestNoLoggerWritesASecret(t *testing.T) {
	s, o := New([]byte(canary)), newOuter()
	var b bytes.Buffer
	for _, enc := range []zapcore.Encoder{zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig())} {
		log := zap.New(zapcore.NewCore(enc, zapcore.AddSync(&b), zap.DebugLevel))
		log.Info("zap", zap.Any("any", s), zap.Any("ptr", &s), zap.Any("outer", o), zap.Any("outerptr", &o), zap.Reflect("reflect", o), zap.Reflect("r", s),
			zap.Stringer("stringer", s), zap.Any("list", []Secret{s}), zap.Error(fmt.Errorf("%+v", o)))
		log.Sugar().Infow("sugar", "s", s, "o", o)
		log.Sugar().Infof("%v %+v %#v", s, o, o)
	}
	for _, h := range []slog.Handler{slog.NewJSONHandler(&b, nil), slog.NewTextHandler(&b, nil)} {
		slog.New(h).Info("slog", "s", s, "ptr", &s, "o", o, "optr", &o, slog.Group("g", "s", s))
	}
	if form := leaks(b.String()); form != "" {
		t.Errorf("a logger shows %q", form)
	}
	if !strings.Contains(b.String(), redacted) {
		t.Error("no logger wrote anything")
	}
}

// Tools that dump values (for tests, for crash reports) follow every pointer by reflection, also through unexported fields.
func TestReflectionDoesNotReachASecret(t *testing.T) {
	o := newOuter()
	var found []string
	seen := map[unsafe.Pointer]bool{}
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Pointer:
			if v.IsNil() || seen[v.UnsafePointer()] {
				return
			}
			seen[v.UnsafePointer()] = true
			walk(v.Elem(), path+"*")
		case reflect.Interface:
			if !v.IsNil() {
				walk(v.Elem(), path+"()")
			}
		case reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		case reflect.Slice, reflect.Array:
			if v.Type().Elem().Kind() == reflect.Uint8 {
				found = append(found, path)
			}
			for i := range v.Len() {
				walk(v.Index(i), path+"[]")
			}
		case reflect.Map:
			for _, k := range v.MapKeys() {
				walk(v.MapIndex(k), path+"{}")
			}
		case reflect.String:
			found = append(found, path)
		}
	}
	walk(reflect.ValueOf(&o), "o")
	if len(found) > 0 {
		t.Errorf("reflection reaches bytes at %v", found)
	}
}

func TestSecretRevealsOnlyWhatItWasGiven(t *testing.T) {
	if s := New([]byte(canary)); string(s.Reveal()) != canary || s.IsZero() || !s.Equal(New([]byte(canary))) || s.Equal(New([]byte("x"))) {
		t.Error("a secret is not what it was given")
	}
	var zero Secret
	if zero.Reveal() != nil || !zero.IsZero() || fmt.Sprint(zero) != redacted {
		t.Error("the zero secret is not empty")
	}
	var conf struct{ Token Secret }
	if err := json.Unmarshal([]byte(`{"Token":"`+canary+`"}`), &conf); err != nil || string(conf.Token.Reveal()) != canary {
		t.Errorf("a configuration cannot hold a secret: %v", err)
	}
}

func TestWebhookSecretForms(t *testing.T) {
	s := NewWebhookSecret()
	key, err := WebhookKey(s)
	if err != nil || len(key) != 32 {
		t.Fatalf("a new secret: %v, %d bytes", err, len(key))
	}
	bare := strings.TrimPrefix(string(s.Reveal()), "whsec_")
	again, err := ParseWebhookSecret(" " + bare + "\n")
	if err != nil || !again.Equal(s) {
		t.Errorf("the prefix is not optional: %v", err)
	}
	if Fingerprint(New([]byte(bare))) != Fingerprint(s) || Fingerprint(s) == Fingerprint(NewWebhookSecret()) || len(Fingerprint(s)) != 16 {
		t.Error("fingerprints do not tell secrets apart")
	}
	// The published test secret of Standard Webhooks has 24 bytes, the fewest that are allowed.
	if _, err := ParseWebhookSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "whsec_", "whsec_" + canary, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw=",
		"whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + strings.Repeat("QUFB", 22), "whsec_MfKQ9r8GKYqrTwjU\nPD8ILPZIo2LaLaSw"} {
		_, err := ParseWebhookSecret(bad)
		var form *FormError
		if !errors.As(err, &form) || form.Code() != "secret_invalid" {
			t.Errorf("%q: %v", bad, err)
		} else if bad != "" && strings.Contains(err.Error(), canary) {
			t.Errorf("the error quotes the secret: %v", err)
		}
	}
}
