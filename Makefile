# `make help` says what there is. Everything but build and clean installs what
# it needs first (test/setup, as root on Debian).

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 60s
FAULTS   := Interrupted|Killed|CRIUEnds|Recover|Full|Faulty|Limits|Outputs|Together|Timeout|Busy|Destinations|Lock
CACHE    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ckarchive

# The tools that test/setup builds; then a CRIU of its making, and Go where it
# is usually installed.
export PATH := $(CACHE)/bin:/usr/local/sbin:$(PATH):/usr/sbin:/sbin:/usr/local/go/bin:$(HOME)/go/bin

# The packages whose tests need neither a runtime nor a registry at hand. Tests
# among them that need root or CRIU skip themselves, except when CI is "true".
UNIT = $(shell go list ./... | grep -v '/ckarchive/test/')

.PHONY: help build demo check lint lines test unit root-tests e2e interop matrix bench faults fuzz fuzz-short clean

help: ## Say what the targets do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

build: ## Build bin/ckarchive, one static binary, and its name as a plugin of checkpointctl
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ckarchive ./cmd/ckarchive
	@ln -sf ckarchive bin/checkpointctl-ckarchive

demo: ## Freeze a container, carry it through a registry, bring it back
	test/setup demo
	$(MAKE) build
	test/demo/run

check: ## Formatting, linters and the tests that need no root
	test/setup check
	$(MAKE) lint unit

lint: lines
	@unformatted=$$(gofumpt -l .); [ -z "$$unformatted" ] || { echo "gofumpt -w is needed for:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	@# A cache of its own: a shared one gives the findings of another checkout, with its paths.
	GOLANGCI_LINT_CACHE=$(CURDIR)/bin/lint-cache golangci-lint run --allow-serial-runners

# A file that is longer is two files.
lines:
	@find . -name '*.go' -not -name '*_test.go' -not -path './bin/*' -exec wc -l {} + | \
		awk '$$2 != "total" && $$1 > 400 {print $$2 " has " $$1 " lines, 400 are allowed"; bad = 1} END {exit bad}'

unit:
	env -u CI go test -race -timeout 20m $(UNIT)

test: ## Everything: check, then the real thing with CRIU, runtimes and registries
	test/setup test
	$(MAKE) check
	$(MAKE) root-tests fuzz-short e2e build
	test/demo/run

# Once more with nothing allowed to skip.
root-tests:
	CI=true CKARCHIVE_ROOT_TESTS=1 go test -count=1 -timeout 20m $(UNIT)

e2e:
	CI=true go test -count=1 -timeout 60m ./test/...

matrix: ## Print which archives go where: every runtime and engine, cgroups v1 and v2
	test/setup matrix
	CI=true CKARCHIVE_MATRIX_FULL=1 go test -count=1 -v -timeout 20m ./test/matrix | sed -nE '/^ *(\||--- FAIL|FAIL|ok)/p; /_test.go:[0-9]+: /p'

interop: ## Carry checkpoints between ckarchive and other engines, and print what Podman alone loses
	test/setup interop
	CI=true CKARCHIVE_INTEROP_FULL=1 go test -count=1 -v -timeout 20m ./test/interop | sed -nE '/^ *(\||--- |FAIL|ok)/p; /_test.go:[0-9]+: /p'

bench: ## Measure, side by side with Podman and runc, frozen time, bytes sent, restore time and more
	test/setup bench
	$(MAKE) build
	go run ./test/bench
	CI=true CKARCHIVE_UPLOADS_FULL=1 go test -count=1 -v -run TestUploadCut ./test/faults | sed -nE 's/.*upload_test.go:[0-9]+: (.* after |[0-9]+ bytes each)/\1/p; /^(--- |FAIL|ok)/p'

faults: ## Kill, starve and hang everything everywhere, three times over, in about an hour
	test/setup test
	CI=true CKARCHIVE_FAULTS_FULL=1 go test -count=3 -timeout 90m ./test/faults
	CI=true CKARCHIVE_FAULTS_FULL=1 go test -count=3 -timeout 90m -run '$(FAULTS)' ./test/e2e

fuzz: ## Run each fuzz target for FUZZTIME (60s)
	test/fuzz/run $(FUZZTIME)

fuzz-short:
	@$(MAKE) fuzz FUZZTIME=10s

clean: ## Remove what build made
	rm -rf bin
