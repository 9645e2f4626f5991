package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hookferry/hookferry/internal/secrets"
)

var descText = regexp.MustCompile(`fqName: "(hookferry_[a-z_]+)", help: "((?:[^"\\]|\\.)*)", unit: "[^"]*", constLabels: \{[^}]*\}, variableLabels: \{([^}]*)\}`)

// everyService is a process with all services, before they run.
func everyService(t *testing.T) *pipeline {
	t.Helper()
	p, err := newPipeline(defaultConfig(), secrets.Generate(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.close() })
	for _, role := range allRoles {
		if _, err := p.service(role); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// docs/metrics.md lists what a process with all services shows. HOOKFERRY_WRITE_GOLDEN=1 writes it.
func TestTheDocumentationOfTheMetricsIsCurrent(t *testing.T) {
	p := everyService(t)
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		p.metrics.Describe(descs)
	}()
	var rows []string
	for d := range descs {
		m := descText.FindStringSubmatch(d.String())
		if m == nil {
			continue // the Go runtime's and the process's own
		}
		labels := ""
		if m[3] != "" {
			labels = "`" + strings.ReplaceAll(m[3], ",", "`, `") + "`"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |\n", m[1], labels, strings.ReplaceAll(strings.ReplaceAll(m[2], `\"`, `"`), "|", "\\|")))
	}
	slices.Sort(rows)
	if len(rows) < 15 {
		t.Errorf("only %d metrics", len(rows))
	}
	want := metricsHead + strings.Join(rows, "") + metricsTail
	const doc = "../../docs/metrics.md"
	if os.Getenv("HOOKFERRY_WRITE_GOLDEN") != "" {
		if err := os.WriteFile(doc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(doc)
	if err != nil || string(got) != want {
		t.Errorf("docs/metrics.md is not what the services show (%v); run: HOOKFERRY_WRITE_GOLDEN=1 go test ./cmd/hookferry -run DocumentationOfTheMetrics", err)
	}
	for _, file := range []string{"../../deploy/prometheus/alerts.yml", "../../deploy/grafana/hookferry.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		for _, name := range regexp.MustCompile(`hookferry_[a-z_]+`).FindAllString(string(text), -1) {
			base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			if !strings.Contains(want, "`"+name+"`") && !strings.Contains(want, "`"+base+"`") {
				t.Errorf("%s asks for %s, which nobody shows", file, name)
			}
		}
	}
}

const metricsHead = `# Metrics

Served at ` + "`/metrics`" + ` of ` + "`host.listen`" + ` (default 127.0.0.1:9464) in Prometheus' text format. Names and labels are an interface. Names that end in ` + "`_total`" + `
are counters, in ` + "`_seconds`" + ` histograms unless they say otherwise, the rest gauges. The runtime's own (` + "`go_*`, `process_*`" + `) come with them.
[deploy/prometheus/alerts.yml](../deploy/prometheus/alerts.yml) has alerts over them, [deploy/grafana/hookferry.json](../deploy/grafana/hookferry.json) a dashboard.

| metric | labels | what it says |
|---|---|---|
`

const metricsTail = `
` + "`/healthz`" + ` answers 200 while the process lives: it says nothing about Kafka, because a restart would not bring Kafka back. ` + "`/readyz`" + ` answers 503 and a line
for every reason while the process does not do its work yet, or no longer: Kafka does not answer, topics not checked, subscriptions not loaded, no place
in the group, no accepted commit, stopping. Both are served from the first moment on.

This page is made from the code by a test.
`

// An alert on the increase of a counter sees nothing of one that is shown for the first time with its first event in it: the series must be there from the start.
func TestWhatAlertsLookAtTheIncreaseOfIsThereFromTheStart(t *testing.T) {
	p := everyService(t)
	families, err := p.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]int{}
	for _, f := range families {
		series[f.GetName()] = len(f.GetMetric())
	}
	text, err := os.ReadFile("../../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?:increase|rate)\((hookferry_[a-z_]+)`).FindAllStringSubmatch(string(text), -1)
	for _, m := range found {
		if series[m[1]] == 0 {
			t.Errorf("%s is not shown before it is counted", m[1])
		}
	}
	if len(found) < 5 {
		t.Errorf("alerts look at %d counters", len(found))
	}
}
