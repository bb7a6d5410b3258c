# `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

CACHE := $(or $(NINEPLY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nineply)
LINT := $(CACHE)/golangci-lint-v2.15.0/bin/golangci-lint
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PREFIX ?= /usr/local
FUZZTIME ?= 30s
CONFORMANCETIME ?= 60s
BENCH ?= all
SOAKTIME ?= 10m
DEATHS ?= 1000
CYCLES ?= 200
GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X github.com/nineply/nineply/internal/cli.version=$(VERSION)'
# Everything but the end-to-end tests, which have a target of their own.
UNIT = $$(go list ./... | grep -v '/e2e')

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/nineply, bin/nineply-mount and bin/nineply-verifier
	@command -v go >/dev/null || deploy/install-deps.sh build
	mkdir -p bin
	$(GO_BUILD) -o bin ./cmd/...

.PHONY: demo
demo: deps-demo build ## install what it needs, build, and show a cold start
	bin/nineply demo

.PHONY: test
test: deps-test ## install what they need and run all tests: unit, race, lint, short fuzz, conformance, e2e
	$(MAKE) --no-print-directory build unit race lint
	$(MAKE) --no-print-directory fuzz FUZZTIME=3s
	$(MAKE) --no-print-directory conformance CONFORMANCETIME=10s
	$(MAKE) --no-print-directory e2e

.PHONY: unit
unit: ## run the tests of the packages
	go test -shuffle=on -timeout 15m $(UNIT)

.PHONY: race
race: ## run the quick tests under the race detector
	CGO_ENABLED=1 go test -race -short -shuffle=on -timeout 15m $(UNIT)

.PHONY: lint
lint: ## check style, import directions and formatting
	go vet ./...
	$(LINT) run ./...

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (30s)
	deploy/fuzz.sh $(FUZZTIME)

# No cgo: containers/storage would want C libraries.
.PHONY: conformance
conformance: export CGO_ENABLED = 0
conformance: ## judge the formats by the reference libraries' own suites and readers
	cd e2e/conformance && go vet ./... && $(LINT) run ./...
	cd e2e/conformance && go test -count=1 -timeout 15m ./...
	cd e2e/conformance && go test -run '^$$' -fuzz '^FuzzAgainstReference$$' -fuzztime $(CONFORMANCETIME) -fuzzminimizetime 1s .

.PHONY: e2e
e2e: build ## run the end-to-end tests with real registries, runtimes and guests
	NINEPLY_E2E=require go test -count=1 -timeout 30m ./e2e/...

.PHONY: e2e-builders
e2e-builders: build ## build BuildKit, and run the tests of BuildKit, Podman and rootless containerd
	deploy/install-deps.sh builders
	NINEPLY_E2E=require NINEPLY_BUILDERS=require go test -count=1 -timeout 15m -v -run '^(TestBuildKit|TestPodman|TestRootless)$$' ./e2e

.PHONY: soak
soak: build ## mount, compare, kill and restart for SOAKTIME (10m), watching for leaks; DEATHS (1000) of the daemon under readers; 1,000 of a store, and 2,000 power cuts; CYCLES (200) of pull, run and remove
	CHUNKSTORE_FAULT_POINTS=all CHUNKSTORE_CUT_STRIDE=1 CHUNKSTORE_KILLS=500 go test -count=1 -timeout 0 -v -run '^(TestKill9|TestPowerCut|TestFaultInHistory)' ./chunkstore
	NINEPLY_E2E=require NINEPLY_SOAK=$(SOAKTIME) NINEPLY_DEATHS=$(DEATHS) NINEPLY_CYCLES=$(CYCLES) go test -count=1 -timeout 0 -v -run '^(TestSoak|TestDeaths|TestCycles)$$' ./e2e

.PHONY: bench
bench: ## run the benchmarks of the area BENCH (all), results in bench/results
	bench/run.sh $(BENCH)

.PHONY: bench-tables
bench-tables: ## write the results into the tables of the documentation
	go run ./bench/tables docs/benchmarks.md

.PHONY: install
install: build ## install below PREFIX (/usr/local)
	install -D -m 755 bin/nineply $(DESTDIR)$(PREFIX)/bin/nineply
	install -D -m 755 bin/nineply-verifier $(DESTDIR)$(PREFIX)/bin/nineply-verifier
	install -D -m 755 bin/nineply-mount $(DESTDIR)$(PREFIX)/bin/nineply-mount
	ln -sfn nineply-mount $(DESTDIR)$(PREFIX)/bin/mount.nineply
	mkdir -p $(DESTDIR)$(PREFIX)/lib/systemd/system $(DESTDIR)$(PREFIX)/lib/systemd/user
	for unit in nineply nineply-mount nineply-store; do \
		sed 's|@PREFIX@|$(PREFIX)|' deploy/$$unit.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit.service || exit 1; \
	done
	sed 's|@PREFIX@|$(PREFIX)|' deploy/user/nineply.service > $(DESTDIR)$(PREFIX)/lib/systemd/user/nineply.service

.PHONY: deps-demo deps-test
deps-demo:
	@deploy/install-deps.sh demo
deps-test:
	@deploy/install-deps.sh test

.PHONY: clean
clean: ## remove what was built here; the cache directory stays
	rm -rf bin
