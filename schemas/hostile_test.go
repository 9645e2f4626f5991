package schemas

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// long is an Avro long of its own.
func long(v int64) []byte { return appendLong(nil, v) }

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// doubling is a schema whose value of no bytes at all has 2^levels fields.
func doubling(levels int) string {
	text := `{"type":"record","name":"R0","fields":[{"name":"n","type":"null"}]}`
	for i := 1; i <= levels; i++ {
		text = fmt.Sprintf(`{"type":"record","name":"R%d","fields":[{"name":"a","type":%s},{"name":"b","type":"R%d"}]}`, i, text, i-1)
	}
	return text
}

// TestHostileBytes: each input is refused for its own reason, by the transcoder and by Skip, within 100 ms and 64 MiB.
func TestHostileBytes(t *testing.T) {
	tooLong := cat(bytes.Repeat([]byte{0x80}, 10), []byte{1})
	const mib = 1 << 20
	longName := `{"type":"array","items":{"type":"record","name":"R","fields":[{"name":"` + strings.Repeat("x", 10_000) + `","type":"boolean"}]}}`
	longSymbol := `{"type":"array","items":{"type":"enum","name":"E","symbols":["` + strings.Repeat("x", 10_000) + `"]}}`
	for name, c := range map[string]struct {
		schema string
		wire   []byte
		want   *DataError
	}{
		"nothing":                     {`"long"`, nil, errTruncated},
		"varint of 11 bytes":          {`"long"`, tooLong, errVarint},
		"varint of 65 bits":           {`"long"`, cat(bytes.Repeat([]byte{0xff}, 9), []byte{2}), errVarint},
		"varint cut off":              {`"long"`, []byte{0x80, 0x80}, errTruncated},
		"int of 33 bits":              {`"int"`, long(1 << 31), errIntRange},
		"int of -33 bits":             {`"int"`, long(-1<<31 - 1), errIntRange},
		"boolean 2":                   {`"boolean"`, []byte{2}, errBoolean},
		"boolean 255":                 {`"boolean"`, []byte{255}, errBoolean},
		"string longer than all":      {`"string"`, cat(long(1<<40), []byte("abc")), errTruncated},
		"string of negative length":   {`"string"`, cat(long(-1), []byte("abc")), errNegative},
		"string of least length":      {`"string"`, long(-1 << 63), errNegative},
		"string not UTF-8":            {`"string"`, cat(long(2), []byte{0xc3, 0x28}), errUTF8},
		"string with a surrogate":     {`"string"`, cat(long(3), []byte{0xed, 0xa0, 0x80}), errUTF8},
		"string overlong":             {`"string"`, cat(long(2), []byte{0xc0, 0x80}), errUTF8},
		"key not UTF-8":               {`{"type":"map","values":"null"}`, cat(long(1), long(1), []byte{0xff}, long(0)), errUTF8},
		"bytes longer than all":       {`"bytes"`, long(1 << 62), errTruncated},
		"fixed cut off":               {`{"type":"fixed","name":"F","size":4}`, []byte{1, 2, 3}, errTruncated},
		"NaN":                         {`"double"`, []byte{0, 0, 0, 0, 0, 0, 0xf8, 0x7f}, errNotFinite},
		"infinity":                    {`"double"`, []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x7f}, errNotFinite},
		"minus infinity, float":       {`"float"`, []byte{0, 0, 0x80, 0xff}, errNotFinite},
		"union branch 2 of 2":         {`["null","long"]`, long(2), errUnionIndex},
		"union branch -1":             {`["null","long"]`, long(-1), errUnionIndex},
		"enum symbol 1 of 1":          {`{"type":"enum","name":"E","symbols":["A"]}`, long(1), errEnumIndex},
		"enum symbol -1":              {`{"type":"enum","name":"E","symbols":["A"]}`, long(-1), errEnumIndex},
		"array of 2^40":               {`{"type":"array","items":"long"}`, long(1 << 40), errElements},
		"array of 2^40 nothings":      {`{"type":"array","items":"null"}`, cat(long(1<<40), long(0)), errElements},
		"array of 100,001 nothings":   {`{"type":"array","items":"null"}`, cat(long(MaxElements+1), long(0)), errElements},
		"arrays of nothings, in sum":  {`{"type":"array","items":{"type":"array","items":"null"}}`, cat(long(2), long(60_000), long(0), long(60_000), long(0), long(0)), errElements},
		"array of blocks of one":      {`{"type":"array","items":"null"}`, cat(bytes.Repeat([]byte{2}, MaxElements+1), long(0)), errElements},
		"array more than bytes":       {`{"type":"array","items":"long"}`, cat(long(50_000), make([]byte, 100)), errTruncated},
		"array with the least count":  {`{"type":"array","items":"long"}`, cat(long(-1<<63), long(1)), errNegative},
		"block of negative size":      {`{"type":"array","items":"long"}`, cat(long(-1), long(-1), long(5), long(0)), errNegative},
		"block larger than all":       {`{"type":"array","items":"long"}`, cat(long(-1), long(1<<40), long(5), long(0)), errTruncated},
		"block smaller than it says":  {`{"type":"array","items":"long"}`, cat(long(-1), long(3), long(5), long(0), long(0)), errBlockSize},
		"block larger than it says":   {`{"type":"map","values":"long"}`, cat(long(-1), long(2), long(1), []byte("k"), long(5), long(0)), errBlockSize},
		"map of 2^40":                 {`{"type":"map","values":"null"}`, long(1 << 40), errElements},
		"date in year 10000":          {`{"type":"int","logicalType":"date"}`, long(maxDay + 1), errTimeRange},
		"date before year 0":          {`{"type":"int","logicalType":"date"}`, long(minDay - 1), errTimeRange},
		"timestamp in year 10000":     {`{"type":"long","logicalType":"timestamp-millis"}`, long((maxDay + 1) * millisPerDay), errTimeRange},
		"timestamp least":             {`{"type":"long","logicalType":"timestamp-micros"}`, long(-1 << 63), errTimeRange},
		"local timestamp greatest":    {`{"type":"long","logicalType":"local-timestamp-millis"}`, long(1<<63 - 1), errTimeRange},
		"time of day 24:00":           {`{"type":"int","logicalType":"time-millis"}`, long(millisPerDay), errTimeRange},
		"time of day negative":        {`{"type":"long","logicalType":"time-micros"}`, long(-1), errTimeRange},
		"decimal of no bytes":         {`{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}`, long(0), errDecimal},
		"decimal of 5 digits":         {`{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}`, cat(long(2), []byte{0x27, 0x10}), errDecimal},
		"decimal of 1 MiB":            {`{"type":"bytes","logicalType":"decimal","precision":1000}`, cat(long(mib-8), bytes.Repeat([]byte{0x55}, mib-8)), errDecimal},
		"values of no bytes, doubled": {doubling(30), nil, errSize},
		"elements of many nothings":   {`{"type":"array","items":` + doubling(10) + `}`, cat(long(MaxElements), long(0)), errSize},
		"more than is read":           {`"bytes"`, make([]byte, MaxInput+1), errSize},
		"more JSON than is written":   {longName, cat(long(90_000), make([]byte, 90_000), long(0)), errSize},
		"more JSON by symbols":        {longSymbol, cat(long(90_000), make([]byte, 90_000), long(0)), errSize},
		"6 MiB of JSON, all escapes":  {`"string"`, cat(long(mib), bytes.Repeat([]byte{1}, mib)), nil},
		"100,000 keys":                {`{"type":"map","values":"null"}`, manyKeys(MaxElements), nil},
		"1 MiB of small records":      {`{"type":"array","items":{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":["null","int"]}]}}`, cat(long(90_000), bytes.Repeat([]byte{2, 2, 4}, 90_000), long(0)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := parseOf(t, c.schema)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, _, err := s.AppendJSON(nil, c.wire)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			_, skipErr := s.Skip(c.wire)
			if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("transcoding gave %v, want %v", err, c.want)
			}
			if c.want == errSize && len(c.wire) <= MaxInput { // the bound on JSON; Skip writes none
				if skipErr != nil && !errors.Is(skipErr, errElements) {
					t.Errorf("skipping gave %v", skipErr)
				}
			} else if c.want == nil && skipErr != nil || c.want != nil && !errors.Is(skipErr, c.want) {
				t.Errorf("skipping gave %v, want %v", skipErr, c.want)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
				t.Errorf("it allocated %d MiB", grown>>20)
			}
			for range 4 { // a busy machine may cost a try or two
				if took <= 100*time.Millisecond {
					break
				}
				start = time.Now()
				_, _, _ = s.AppendJSON(nil, c.wire)
				took = min(took, time.Since(start))
			}
			if took > 100*time.Millisecond {
				t.Errorf("it took %v", took)
			}
			t.Logf("%v, %d KiB", took, (after.TotalAlloc-before.TotalAlloc)>>10)
		})
	}
}

func manyKeys(n int) []byte {
	b := long(int64(n))
	for i := range n {
		b = appendString(b, fmt.Sprintf("%05x", i))
	}
	return append(b, 0)
}

// TestMapWithOneKeyTwice is refused, early or late in the map; Skip does not look.
func TestMapWithOneKeyTwice(t *testing.T) {
	s := parseOf(t, `{"type":"map","values":"long"}`)
	for _, n := range []int{2, 8, 9, 10, 500} {
		wire := long(int64(n))
		for i := range n {
			wire = appendLong(appendString(wire, fmt.Sprint("k", i%(n-1))), 1)
		}
		wire = append(wire, 0)
		if _, _, err := s.AppendJSON(nil, wire); !errors.Is(err, errDuplicate) {
			t.Errorf("%d keys: %v", n, err)
		}
		if _, err := s.Skip(wire); err != nil {
			t.Errorf("skip: %v", err)
		}
	}
}

// TestDataErrorsSayWhere: in the words of the schema.
func TestDataErrorsSayWhere(t *testing.T) {
	s := parseOf(t, `{"type":"record","name":"R","fields":[{"name":"list","type":{"type":"array","items":{"type":"record","name":"I","fields":[
		{"name":"ok","type":"boolean"}]}}}]}`)
	_, _, err := s.AppendJSON(nil, []byte{4, 1, 7, 0})
	var e *DataError
	if !errors.As(err, &e) || e.Path != "list[1].ok" || e.Reason != "bad_boolean" || e.Code() != "undecodable" {
		t.Errorf("%#v", err)
	}
	if err.Error() != "avro data: list[1].ok: bad_boolean" {
		t.Error(err)
	}
	if _, err := s.Skip([]byte{4, 1, 7, 0}); err == nil || err.Error() != "avro data: list[1].ok: bad_boolean" {
		t.Error(err)
	}
}

// TestPlainValues pins the JSON of each kind of value.
func TestPlainValues(t *testing.T) {
	dec := func(p, sc int) string {
		return fmt.Sprintf(`{"type":"bytes","logicalType":"decimal","precision":%d,"scale":%d}`, p, sc)
	}
	logicalLong := func(l string) string { return `{"type":"long","logicalType":"` + l + `"}` }
	for _, c := range []struct {
		schema string
		wire   []byte
		want   string
	}{
		{dec(18, 6), cat(long(1), []byte{0}), `"0.000000"`},
		{dec(18, 6), cat(long(1), []byte{0xff}), `"-0.000001"`},
		{dec(18, 6), cat(long(4), []byte{0, 0, 0, 5}), `"0.000005"`},
		{dec(18, 0), cat(long(2), []byte{0x80, 0}), `"-32768"`},
		{dec(18, 2), cat(long(2), []byte{0x30, 0x39}), `"123.45"`},
		{dec(30, 2), cat(long(9), []byte{1, 0, 0, 0, 0, 0, 0, 0, 0}), `"184467440737095516.16"`},
		{dec(30, 2), cat(long(9), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), `"-0.01"`},
		{dec(4, 9), cat(long(1), []byte{9}), `"CQ=="`}, // a scale over the precision: no decimal at all
		{logicalLong("timestamp-millis"), long(-1), `"1969-12-31T23:59:59.999Z"`},
		{logicalLong("timestamp-millis"), long(minDay * millisPerDay), `"0000-01-01T00:00:00.000Z"`},
		{logicalLong("timestamp-millis"), long((maxDay+1)*millisPerDay - 1), `"9999-12-31T23:59:59.999Z"`},
		{logicalLong("timestamp-micros"), long(1), `"1970-01-01T00:00:00.000001Z"`},
		{logicalLong("local-timestamp-millis"), long(1), `"1970-01-01T00:00:00.001"`},
		{logicalLong("local-timestamp-micros"), long(1), `"1970-01-01T00:00:00.000001"`},
		{logicalLong("time-micros"), long(microsPerDay - 1), `"23:59:59.999999"`},
		{logicalLong("nobody-knows-this"), long(5), `5`},
		{`{"type":"int","logicalType":"date"}`, long(11016), `"2000-02-29"`},
		{`{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}`, []byte("0123456789abcdef"), `"30313233-3435-3637-3839-616263646566"`},
		{`{"type":"string","logicalType":"uuid"}`, cat(long(2), []byte("no")), `"no"`},
		{`"bytes"`, cat(long(2), []byte{0xff, 0}), `"/wA="`},
		{`"double"`, appendDouble(nil, 1e21), `1e+21`},
		{`"double"`, appendDouble(nil, 1e-7), `1e-7`},
		{`"double"`, appendDouble(nil, 12.5), `12.5`},
		{`"long"`, long(-1 << 63), `-9223372036854775808`},
		{`["null","string"]`, cat(long(1), long(1), []byte("x")), `"x"`},
		{`["null","string"]`, long(0), `null`},
		{`{"type":"array","items":"int"}`, cat(long(-2), long(2), long(1), long(2), long(1), long(3), long(0)), `[1,2,3]`},
		{`{"type":"map","values":"int"}`, cat(long(1), long(1), []byte(`"`), long(2), long(0)), `{"\"":2}`},
		{`{"type":"record","name":"E","fields":[]}`, nil, `{}`},
	} {
		out, rest, err := parseOf(t, c.schema).AppendJSON(nil, c.wire)
		if err != nil || len(rest) != 0 || string(out) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.schema, out, err, c.want)
		}
	}
}
