package subscriptions

import (
	"reflect"
	"testing"
	"unsafe"

	"github.com/hookferry/hookferry/schemas"
)

// One text that pack leaves out, even an empty one, holds the decoded copy of the whole record: 300 bytes and more of every subscription. Which texts a
// record has is asked of the type, so that a new field cannot be forgotten.
func TestNoTextOfAPackedSubscriptionHoldsTheDecodedRecord(t *testing.T) {
	var full schemas.Subscription
	fillField(reflect.ValueOf(&full).Elem(), "x")
	for name, s := range map[string]*schemas.Subscription{"every text given": &full, "every text empty": {
		Events: []string{""}, Headers: make([]schemas.Header, 1), Auth: &schemas.Sealed{}, Secrets: make([]schemas.Secret, 1), Spans: make([]schemas.Cut, 1),
	}} {
		t.Run(name, func(t *testing.T) {
			var decoded schemas.Subscription
			if err := schemas.DecodeSubscription(schemas.AppendSubscription(nil, s), &decoded); err != nil {
				t.Fatal(err)
			}
			texts := map[string]*string{}
			collect(reflect.ValueOf(&decoded).Elem(), "", texts)
			if len(texts) < 19 {
				t.Fatalf("%d texts found", len(texts))
			}
			before := map[string]*byte{}
			for path, text := range texts {
				before[path] = unsafe.StringData(*text)
			}
			pack(&decoded, "", map[string]string{})
			for path, text := range texts {
				if p := unsafe.StringData(*text); p != nil && p == before[path] {
					t.Errorf("%s is still a slice of the decoded record", path)
				}
			}
			if name == "every text given" && !reflect.DeepEqual(&decoded, s) {
				t.Errorf("packed: %+v\nwant %+v", decoded, *s)
			}
		})
	}
}

// fillField gives every field something that is not its zero value; texts are all different.
func fillField(v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fillField(v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillField(v.Elem(), path)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fillField(v.Index(i), path+string(rune('0'+i)))
		}
	case reflect.String:
		v.SetString(path)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Uint8:
		v.SetUint(7)
	default:
		v.SetInt(7)
	}
}

// collect finds every text, by its path.
func collect(v reflect.Value, path string, into map[string]*string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			collect(v.Field(i), path+"."+v.Type().Field(i).Name, into)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			collect(v.Elem(), path, into)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return // the decoder copies bytes
		}
		for i := range v.Len() {
			collect(v.Index(i), path+string(rune('0'+i)), into)
		}
	case reflect.String:
		into[path] = v.Addr().Interface().(*string)
	}
}
