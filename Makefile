# Coracle. `sudo make up` and `make test` do all the set-up they need on Debian and Ubuntu with Go and make.
SHELL := /bin/bash
export CGO_ENABLED := 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo v0.0.0)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
KUBE    := v1.37.2
MODULE  := github.com/coracle-dev/coracle
LDFLAGS := -s -w \
	-X $(MODULE)/internal/version.Version=$(VERSION) \
	-X $(MODULE)/internal/version.Commit=$(COMMIT) \
	-X k8s.io/component-base/version.gitVersion=$(KUBE) \
	-X k8s.io/client-go/pkg/version.gitVersion=$(KUBE) \
	-X github.com/containerd/containerd/v2/version.Version=$(shell sed -n "s,^.*github.com/containerd/containerd/v2 v,,p" go.mod)
SOURCES := $(shell find agent apiserver cmd controllers internal proto proxy scheduler -name '*.go' -not -name '*_test.go' 2>/dev/null) go.mod go.sum
DATA    := $(shell find apiserver/openapi -name "*.gz" 2>/dev/null)

.PHONY: all build up down test test-unit test-race test-integration test-vm test-all lint fuzz bench generate deps clean
all: build

build: bin/coracle ## bin/coracle, static and stripped

ASSETS := internal/assets/files/.built
$(ASSETS): $(shell find cmd/containerd agent/containerd/server internal/footprint cmd/containerd-shim-runc-v2 cmd/demo cmd/supervise internal/assets/build -name '*.go' 2>/dev/null) go.mod go.sum
	@echo "== helpers and demo image"
	go run ./internal/assets/build
	@touch $@

bin/coracle: $(SOURCES) $(DATA) $(ASSETS)
	@echo "== bin/coracle"
	@mkdir -p bin
	go build -ldflags '$(LDFLAGS)' -o $@ ./cmd/coracle

deps: ## what the machine must have besides Go: runc
	@command -v runc >/dev/null || command -v crun >/dev/null || ./scripts/install-deps runc

up: deps build ## a one-node cluster on this machine
	bin/coracle up

down: ## stop it and leave nothing behind; PURGE=1 also removes its data
	@test -x bin/coracle || $(MAKE) build
	bin/coracle down $(if $(PURGE),--purge)

test: test-deps build lint test-unit test-race test-integration test-vm ## every test there is
	@echo "== all tests passed"

.PHONY: test-deps
test-deps:
	@./scripts/install-deps test

lint: ## gofmt, vet, staticcheck, import rules
	@echo "== lint"
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt: $$out"; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go test -count=1 ./internal/importrules

test-unit: $(ASSETS)
	@echo "== unit tests"
	CORACLE_TEST_GENERATE=1 go test $$(go list ./... | grep -v /integration)

RACE := ./apiserver/store/... ./apiserver/cache/... ./apiserver/alloc/... ./apiserver/fairness/... ./apiserver/tunnel/... ./internal/carry/... ./internal/loop/... \
	./internal/leader/... ./scheduler ./scheduler/queue/... ./scheduler/plugin/... ./agent/lifecycle/... ./agent/probes/... ./agent/volumes/... ./internal/keylock
test-race: $(ASSETS)
	@echo "== race detector"
	CGO_ENABLED=1 go test -race -short $(RACE)

test-integration: bin/coracle
	@echo "== integration tests"
	@set -o pipefail; go test -count=1 -v -parallel 4 -timeout 25m ./integration/... | grep --line-buffered -v '^=== '

KERNEL := .cache/vm-kernel
test-vm: bin/coracle ## a machine of its own, on cgroup v2, booted in software; skipped where neither emulator nor kernel can be had
	@set -o pipefail; if ./scripts/install-deps vm && ./scripts/vm-kernel $(KERNEL); then \
		echo "== tests in a virtual machine"; \
		CORACLE_TEST_VM=$(KERNEL) go test -count=1 -v -timeout 20m ./integration/vm | grep --line-buffered -v '^=== '; \
	else echo "== skipped: TestVM, which needs packages that this machine cannot get"; fi

test-all: test ## what takes too long for every change, too
	@echo "== 20 rounds of nodes that fail"
	CORACLE_TEST_ROUNDS=20 go test -count=1 -v -timeout 30m ./integration/network
	@echo "== 200 kills"
	CORACLE_TEST_KILLS=200 go test -count=1 -v -timeout 40m ./integration/crash

FUZZTIME ?= 5m
fuzz: $(ASSETS) ## each fuzz target in turn, FUZZTIME each (5m)
	@set -e; for package in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do \
		for target in $$(git grep -ho '^func Fuzz[A-Za-z]*' -- ":(glob)$$package/*_test.go" | cut -c6-); do \
			echo "== $$package $$target"; \
			GOMEMLIMIT=$${GOMEMLIMIT:-2GiB} nice -n 10 go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -parallel 1 ./$$package; \
		done; \
	done

bench: bin/coracle ## the figures of docs/performance.md
	go test -count=1 -run '^$$' -bench . -benchtime 1x -timeout 30m ./integration/bench
	go test -count=1 -run '^$$' -bench 'TenThousandServices|Connect|Throughput' -benchtime 1x ./proxy/nft
	go test -count=1 -run '^$$' -bench Proxy -benchtime 1x ./proxy
	go test -count=1 -run '^$$' -bench . ./proxy/policy
	go test -count=1 -run '^$$' -bench . -benchtime 2x ./scheduler/decide

generate: ## generated code and the OpenAPI documents
	@./scripts/install-deps generate
	go generate ./...

clean:
	rm -rf bin internal/assets/files/*.gz $(ASSETS)
