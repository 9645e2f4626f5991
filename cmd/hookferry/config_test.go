package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hookferry/hookferry/internal/host"
)

// Every file in testdata/broken breaks one rule and names in its comments what must be said about it: as many mistakes as there are, and no other.
func TestEveryBrokenConfigurationIsRefusedWithAllItsMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yml")
	if err != nil || len(files) < 40 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(text)) {
				if w, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "# want: "); ok {
					want = append(want, w)
				}
			}
			_, err = loadConfig(file, nil)
			got := allLeaves(err)
			if len(got) != len(want) || len(want) == 0 {
				t.Errorf("%d mistakes, want %d:\n%v", len(got), len(want), err)
			}
			for _, w := range want {
				if !slices.ContainsFunc(got, func(e error) bool { return strings.Contains(e.Error(), w) }) {
					t.Errorf("nobody says %q:\n%v", w, err)
				}
			}
			if strings.Contains(fmt.Sprint(err), "canary-password") {
				t.Errorf("a password is shown: %v", err)
			}
			var out bytes.Buffer
			printError(&out, err, exitFailed)
			for line := range strings.Lines(out.String()) {
				if !strings.HasPrefix(line, "error: config_invalid: ") {
					t.Errorf("printed as %q", line)
				}
			}
		})
	}
}

const example = "../../config.example.yml"

func TestTheExampleNamesEveryKeyWithItsDefaultAndAnExplanation(t *testing.T) {
	c, err := loadConfig(example, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	if a, b := fmt.Sprint(tree(reflect.ValueOf(c), "")), fmt.Sprint(tree(reflect.ValueOf(want), "")); a != b {
		t.Errorf("the example does not show the defaults:\n%s\n%s", a, b)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	explained := explanations(string(text))
	for _, f := range fieldsOf(&want) {
		if explained[f.path] == "" {
			t.Errorf("%s does not stand in the example, or without an explanation above it", f.path)
		}
		delete(explained, f.path)
	}
	for path := range explained {
		t.Errorf("%s is explained but is no key", path)
	}
}

var keyLine = regexp.MustCompile(`^( *)([a-z_]+):(.*)$`)

// explanations reads the comment above each key that has a value, by the key's path.
func explanations(text string) map[string]string {
	out := map[string]string{}
	var path []string
	comment := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if c, ok := strings.CutPrefix(strings.TrimSpace(line), "# "); ok {
			comment = strings.TrimSpace(comment + " " + c)
			continue
		}
		if m := keyLine.FindStringSubmatch(line); m != nil {
			path = append(path[:len(m[1])/2], m[2])
			if m[3] != "" {
				out[strings.Join(path, ".")] = comment
			}
		}
		comment = ""
	}
	return out
}

// docs/configuration.md is made from the example and the structs. HOOKFERRY_WRITE_GOLDEN=1 writes it.
func TestTheDocumentationOfTheConfigurationIsCurrent(t *testing.T) {
	const doc = "../../docs/configuration.md"
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	want := configurationDoc(explanations(string(text)))
	if os.Getenv("HOOKFERRY_WRITE_GOLDEN") != "" {
		if err := os.WriteFile(doc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(doc); err != nil || string(got) != want {
		t.Errorf("docs/configuration.md is not what config.example.yml and the structs say (%v); run: HOOKFERRY_WRITE_GOLDEN=1 go test ./cmd/hookferry -run DocumentationOfTheConfiguration", err)
	}
}

func configurationDoc(explained map[string]string) string {
	var b strings.Builder
	b.WriteString(`# Configuration

One YAML file, given with ` + "`--config FILE` or `HOOKFERRY_CONFIG`" + `, with a section per room; [config.example.yml](../config.example.yml) holds every key with its
default and its explanation. Without a file the defaults are in force. Every key but the maps can be overridden from the environment, by the name in the
table; a list has commas between its parts. Durations are 500ms, 90s, 5m, 2h or 14d. Unknown keys are refused with their lines, and ` + "`hookferry config check`" + `
names every mistake at once. ` + "`hookferry config print`" + ` shows what is in force, secrets hidden.

Secrets belong in the environment or in a file, not into the configuration file: ` + "`HOOKFERRY_KAFKA_SASL_PASSWORD`, `HOOKFERRY_REDIS_PASSWORD`,\n`HOOKFERRY_KAFKA_REGISTRY_PASSWORD`, `HOOKFERRY_SECRET_KEYS` (or `secrets.key_file`)" + `.

This page is made from the example by a test; edit the example.
`)
	c := defaultConfig()
	section := ""
	for _, f := range fieldsOf(&c) {
		if s, _, _ := strings.Cut(f.path, "."); s != section {
			section = s
			fmt.Fprintf(&b, "\n## %s\n\n| key | default | environment | what it does |\n|---|---|---|---|\n", section)
		}
		env := "`" + f.env() + "`"
		if f.value.Kind() == reflect.Map {
			env = "in the file only"
		}
		value := fmt.Sprint(tree(f.value, f.path))
		switch f.value.Kind() {
		case reflect.Map:
			value = "{}"
		case reflect.Slice:
			value = strings.ReplaceAll(value, " ", ",")
		}
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.path, value, env, strings.ReplaceAll(explained[f.path], "|", "\\|"))
	}
	return b.String()
}

func TestTheEnvironmentOverridesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yml")
	if err := os.WriteFile(file, []byte("kafka:\n  brokers: [a:1]\n  partitions: 3\nlog:\n  level: debug\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig(file, []string{
		"HOOKFERRY_KAFKA_BROKERS=b:2, c:3", "HOOKFERRY_KAFKA_TIERS=10s,1d", "HOOKFERRY_EGRESS_PORTS=443,0", "HOOKFERRY_EGRESS_ALLOW_HTTP=true",
		"HOOKFERRY_KAFKA_RETENTION_EVENTS=30d", "HOOKFERRY_REDIS_PASSWORD=p", "HOOKFERRY_DELIVERER_MAX_SENDS=7", "HOOKFERRY_HOST_LISTEN=",
		"HOOKFERRY_SERVICE_HOST=10.0.0.1", "OTHER=x", "nonsense",
	})
	if err != nil {
		t.Fatal(err)
	}
	for what, same := range map[string]bool{
		"brokers":            slices.Equal(c.Kafka.Brokers, []string{"b:2", "c:3"}),
		"tiers":              slices.Equal(c.Kafka.Tiers, []time.Duration{10 * time.Second, day}),
		"ports":              slices.Equal(c.Egress.Ports, []int{443, 0}),
		"allow_http":         c.Egress.AllowHTTP,
		"retention":          c.Kafka.Retention.Events == 30*day,
		"password":           c.Redis.Password.Reveal() == "p",
		"max_sends":          c.Deliverer.MaxSends == 7,
		"emptied":            c.Host.Listen == "",
		"the file stays":     c.Kafka.Partitions == 3 && c.Log.Level == "debug",
		"the defaults stay":  c.Router == defaultConfig().Router,
		"redis in deliverer": c.deliverer().Redis.Password.Reveal() == "p",
	} {
		if !same {
			t.Errorf("%s: %+v", what, c)
		}
	}
	_, err = loadConfig("", []string{"HOOKFERRY_KAFKA_PARTITIONS=many", "HOOKFERRY_KAFKA_TOPIC_CONFIGS=x", "HOOKFERRY_LOG_LEVEL=loud"})
	for _, want := range []string{`environment variable HOOKFERRY_KAFKA_PARTITIONS: "many"`, "HOOKFERRY_KAFKA_TOPIC_CONFIGS: kafka.topic_configs can be set in the file only", `log.level: "loud"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwants %s", err, want)
		}
	}
	if got := unusedEnviron([]string{"HOOKFERRY_SERVICE_HOST=x", "HOOKFERRY_KAFKA_BROKERS=x", "HOOKFERRY_CONFIG=x", "PATH=x"}); !slices.Equal(got, []string{"HOOKFERRY_SERVICE_HOST"}) {
		t.Error(got)
	}
}

// Two keys whose paths differ only in a dot would share a variable.
func TestEveryKeyHasAnEnvironmentVariableOfItsOwn(t *testing.T) {
	c := defaultConfig()
	seen := map[string]string{}
	for _, f := range fieldsOf(&c) {
		if other := seen[f.env()]; other != "" || slices.Contains(otherEnviron, f.env()) {
			t.Errorf("%s and %s share %s", f.path, other, f.env())
		}
		seen[f.env()] = f.path
	}
}

func TestWhatIsPrintedIsReadBackAsTheSame(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yml")
	text := "kafka: {brokers: [\"a:1\"], topic_configs: {retry: {segment.bytes: \"1\"}}, tiers: [90s, 24h]}\nlog: {level: warn}\nhost: {listen: \"\"}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if code := (&app{out: &first, errOut: &first}).main([]string{"config", "print", "--config", file}); code != exitOK {
		t.Fatal(first.String())
	}
	if err := os.WriteFile(file, first.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := (&app{out: &second, errOut: &second}).main([]string{"config", "print", "--config", file}); code != exitOK || first.String() != second.String() {
		t.Errorf("first:\n%s\nsecond:\n%s", first.String(), second.String())
	}
	if !strings.Contains(first.String(), "1m30s") || !strings.Contains(first.String(), "- 1d") {
		t.Errorf("durations are not as people write them:\n%s", first.String())
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Setenv("HOOKFERRY_KAFKA_SASL_MECHANISM", "PLAIN")
	t.Setenv("HOOKFERRY_KAFKA_SASL_USER", "someone")
	for _, name := range []string{"HOOKFERRY_KAFKA_SASL_PASSWORD", "HOOKFERRY_REDIS_PASSWORD", "HOOKFERRY_KAFKA_REGISTRY_PASSWORD"} {
		t.Setenv(name, "canary-password")
	}
	t.Setenv("HOOKFERRY_KAFKA_REGISTRY_USER", "someone")
	for _, args := range [][]string{{"config", "print"}, {"config", "print", "--json"}, {"config", "check"}} {
		var out bytes.Buffer
		code := (&app{out: &out, errOut: &out}).main(args)
		if code != exitOK || strings.Contains(out.String(), "canary") {
			t.Errorf("%v: exit %d\n%s", args, code, out.String())
		}
		if args[1] == "print" && strings.Count(out.String(), "[redacted]") != 3 {
			t.Errorf("%v: three passwords must be shown as hidden:\n%s", args, out.String())
		}
	}
}

func TestDurationsAreReadAndWrittenAsPeopleWriteThem(t *testing.T) {
	for text, want := range map[string]time.Duration{"0s": 0, "500ms": 500 * time.Millisecond, "1m30s": 90 * time.Second, "5m": 5 * time.Minute, "2h": 2 * time.Hour,
		"14d": 14 * day, "1h0m1s": time.Hour + time.Second, "36h": 36 * time.Hour} {
		got, err := parseDuration(text)
		if err != nil || got != want || formatDuration(want) != text {
			t.Errorf("%s: %v %v, written as %s", text, got, err, formatDuration(want))
		}
	}
	for _, text := range []string{"", "5", "d", "-1d", "1e9d", "NaNd", "5 s", "1d2h"} {
		if d, err := parseDuration(text); err == nil {
			t.Errorf("%q is read as %v", text, d)
		}
	}
}

func TestAMissingFileSaysSo(t *testing.T) {
	var out bytes.Buffer
	if code := (&app{out: &out, errOut: &out}).main([]string{"config", "check", "--config", "nowhere.yml"}); code != exitFailed || !strings.HasPrefix(out.String(), "error: config_invalid: the configuration file cannot be read") {
		t.Errorf("%d %s", code, out.String())
	}
	if _, err := loadConfig("", nil); err != nil {
		t.Errorf("the defaults are not valid: %v", err)
	}
	if defaultConfig().Log != host.DefaultLogConfig() {
		t.Error("the room's default is not in force")
	}
}

// A router asks what the deliverers have committed, by the name of their group: the two keys say the same unless somebody says otherwise.
func TestTheRouterKnowsTheDeliverersGroup(t *testing.T) {
	if c := defaultConfig(); c.Router.DelivererGroup != c.Deliverer.Group {
		t.Errorf("router.deliverer_group is %q, deliverer.group %q", c.Router.DelivererGroup, c.Deliverer.Group)
	}
}
