package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/goccy/go-yaml"
)

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func readTree(t *testing.T, path string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal(readFile(t, path), &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

func TestFilesForDeploymentParseAndNameOnlyKeysThatExist(t *testing.T) {
	c := defaultConfig()
	known := slices.Clone(otherEnviron)
	for _, f := range fieldsOf(&c) {
		known = append(known, f.env())
	}
	for _, file := range []string{"../../docker-compose.yml", "../../deploy/docker/Dockerfile", "../../deploy/helm/hookferry/templates/_helpers.tpl", "../../README.md"} {
		for _, name := range regexp.MustCompile(`HOOKFERRY_[A-Z_]+[A-Z]`).FindAllString(string(readFile(t, file)), -1) {
			if !slices.Contains(known, name) {
				t.Errorf("%s sets %s, which is no key", file, name)
			}
		}
	}
	services := readTree(t, "../../docker-compose.yml")["services"].(map[string]any)
	for _, name := range []string{"kafka", "redis", "registry", "topics", "router", "deliverer-1", "deliverer-2"} {
		if services[name] == nil {
			t.Errorf("docker-compose.yml has no service %s", name)
		}
	}
	for _, file := range []string{"../../deploy/prometheus/alerts.yml", "../../deploy/prometheus/prometheus.yml"} {
		readTree(t, file)
	}
	var dashboard struct{ Panels []any }
	if err := json.Unmarshal(readFile(t, "../../deploy/grafana/hookferry.json"), &dashboard); err != nil || len(dashboard.Panels) < 5 {
		t.Errorf("the dashboard has %d panels: %v", len(dashboard.Panels), err)
	}
}

// The chart is rendered with the few of Helm's functions that it uses, and what comes out must be YAML with the configuration inside intact.
func TestTheChartRendersToValidYAMLAndAValidConfiguration(t *testing.T) {
	const dir = "../../deploy/helm/hookferry/"
	values := readTree(t, dir+"values.yaml")
	config, err := yaml.Marshal(values["config"])
	if err != nil {
		t.Fatal(err)
	}
	c := defaultConfig()
	if err := readYAML(config, &c); err != nil {
		t.Error(err)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	chart := readTree(t, dir+"Chart.yaml")
	data := map[string]any{"Values": values, "Release": map[string]any{"Name": "test"},
		"Chart": map[string]any{"AppVersion": chart["appVersion"], "Name": chart["name"]}}
	root := template.New("chart").Option("missingkey=error")
	root.Funcs(helmFunctions(root))
	files, err := filepath.Glob(dir + "templates/*")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if _, err := root.New(filepath.Base(file)).Parse(string(readFile(t, file))); err != nil {
			t.Fatal(err)
		}
	}
	kinds := map[string]int{}
	for _, file := range files {
		var out bytes.Buffer
		if err := root.ExecuteTemplate(&out, filepath.Base(file), data); err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(out.String(), "\n---\n") {
			if strings.TrimSpace(doc) == "" {
				continue
			}
			var v map[string]any
			if err := yaml.UnmarshalWithOptions([]byte(doc), &v, yaml.Strict()); err != nil {
				t.Errorf("%s: %v\n%s", file, err, doc)
				continue
			}
			kinds[fmt.Sprint(v["kind"])]++
		}
	}
	if want := map[string]int{"ConfigMap": 1, "Deployment": 2, "Job": 1}; !maps.Equal(kinds, want) {
		t.Errorf("rendered %v, want %v", kinds, want)
	}
}

func helmFunctions(root *template.Template) template.FuncMap {
	return template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var out bytes.Buffer
			err := root.ExecuteTemplate(&out, name, data)
			return out.String(), err
		},
		"toYaml": func(v any) (string, error) {
			text, err := yaml.MarshalWithOptions(v, yaml.IndentSequence(true))
			return strings.TrimRight(string(text), "\n"), err
		},
		"nindent": func(n int, s string) string {
			pad := strings.Repeat(" ", n)
			return "\n" + pad + strings.ReplaceAll(strings.Trim(s, "\n"), "\n", "\n"+pad)
		},
		"default":   func(d, v any) any { return map[bool]any{true: d, false: v}[v == nil || v == ""] },
		"quote":     func(v any) string { return fmt.Sprintf("%q", fmt.Sprint(v)) },
		"sha256sum": func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) },
		"list":      func(v ...any) []any { return v },
	}
}
