# `make` alone explains every target. Nothing but Go is needed for demo, dev, test, build; the others say what they need.
SHELL := bash
GO ?= go
FUZZTIME ?= 10s
SEEDS ?= 500
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# Another release of staticcheck finds other things: it is named, and raised on purpose.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.DEFAULT_GOAL := help
.PHONY: help demo dev test test-kafka faults faults-long mutants simulation simulation-long schedules prove prove-short lint build bench fuzz clean

help: ## explain the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## the whole path in memory, counted: 26 event types, failing receivers; ends by itself, exit 1 if anything is lost or doubled
	./bin/hookferry demo

dev: build ## a whole world in one process, to play with; not for production
	./bin/hookferry dev

test: ## all tests in memory
	$(GO) test ./...
	$(GO) test -tags faultpoints -skip TestTheOrdinaryBinaryHoldsNoPoint ./internal/fault

test-kafka: ## the house tests and those of Kafka's and Redis' clients, on real ones that it starts and stops (needs java 17, mvn, redis-server, python3)
	.ci/test-kafka

faults: ## kills at every instant, brokers and Redis gone, poison, while events flow on a real Kafka; everything counted (the same needs)
	$(GO) run ./bench/faults

faults-long: ## the sizes that the published figures stand on: over a million deliveries, over 500 kills; hours
	$(GO) run ./bench/faults -long

mutants: ## plant bugs that this field has shipped, one after the other: each must turn its named test red
	$(GO) run ./bench/mutants

simulation: ## random deployments with random faults in virtual time: as many as fit 10 minutes, and at least SEEDS (default 500)
	$(GO) run ./bench/simulation -seeds $(SEEDS) -for 10m

simulation-long: ## ten thousand of them
	$(GO) run ./bench/simulation -seeds 10000

schedules: ## random lives of subscriptions (made, paused, resumed, caught up) while routers come and die: 200 in virtual time, 20 on a real Kafka; ten minutes
	$(GO) test -count=1 ./router -run 'TestEveryEventIsRoutedByItsSpanOnly' -schedules 200
	HOOKFERRY_TEST_SCHEDULES=20 .ci/test-kafka -run 'TestEveryEventIsRoutedByItsSpanOnARealKafka' -parallel 20

prove: ## the promises of the README with the figures that prove them, as one table; it fails after 45 minutes (46 to 48 on two cores)
	$(GO) run ./bench/prove

prove-short: ## the short forms of faults, mutants and simulation
	$(GO) run ./bench/prove -short

lint: ## gofmt, vet, staticcheck, who may import whom, a tidy go.mod
	@unformatted=$$(git ls-files --cached --others --exclude-standard '*.go' | xargs gofmt -l); test -z "$$unformatted" || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags faultpoints ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -count=1 -run 'TestImports' .
	$(GO) mod tidy -diff

build: ## bin/hookferry, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.release=$(VERSION)" -o bin/hookferry ./cmd/hookferry

bench: ## measure throughput, latency and CPU from outside, on a real Kafka and Redis, against a bare loop of signed POSTs (the needs of test-kafka)
	$(GO) run ./bench

fuzz: ## every fuzz test, FUZZTIME each (default 10s)
	.ci/fuzz $(FUZZTIME)

clean: ## what was built
	rm -rf bin
