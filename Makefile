# make demo         the job on software tokens, as a story
# make test         all tests, with a real pcscd, OpenSC and OpenSSH
# make model        random lives of tokens: STEPS=100000 SEED=n
# make check        format, vet, staticcheck, go.mod, race detector, cross builds
# make test-others  the tests that are long or want other programs
# make soak         everything that is random, SOAK=10m of each
# make guards       takes one guard after the other out of the program: the test
#                   that is named for it must fail. GUARDS=REGEXP takes some
# make bench        benchmarks
# make build        bin/hsmbackup
# make deps         what the tests need, by apt-get; the others call it by themselves
#
# .ci/run goes through check, test and test-others. A program that is missing
# fails a test, whichever it is; none is ever skipped for it.

GO ?= go
PREFIX ?= /usr/local

# The systems that a build without cgo must serve.
CROSS = linux/amd64 linux/arm64 darwin/arm64 windows/amd64 freebsd/amd64

.PHONY: all build demo deps test model check test-others soak guards format vet staticcheck tidy race cross bench install clean
all: build

build:
	@packaging/deps.sh build
	$(GO) build -o bin/hsmbackup ./cmd/hsmbackup

demo: build
	@packaging/demo.sh

deps:
	@packaging/deps.sh test

# cmd goes first and alone: begun in the same moment as e2e, its pcscd was not
# found. Then those that take longest begin first, and what waits for a reader
# leaves its processor to others.
PACKAGES = ./internal/e2e ./...

test: deps
	$(GO) test -timeout 30m ./cmd/...
	$(GO) test -timeout 30m -p 2 $(PACKAGES)

# Steps by kind are printed; a history that goes wrong is cut down and printed too.
STEPS ?= 100000
SEED ?= 1

model:
	STEPS=$(STEPS) SEED=$(SEED) $(GO) test -count=1 -timeout 0 -run '^TestLives$$' -v ./cmd/hsmbackup

check: deps format vet staticcheck tidy cross race

# Tests with the build tag others, and each fuzz test for a while.
test-others: deps
	$(GO) test -tags others -timeout 40m -run '^TestOthers' ./...
	@packaging/fuzz.sh 10s

SOAK ?= 10m

soak: deps
	@packaging/fuzz.sh $(SOAK)
	$(GO) test -timeout 0 -run '^TestProperty$$' ./backup -args -property.span=$(SOAK)
	SPAN=$(SOAK) SEED=$$(date +%s) $(GO) test -count=1 -timeout 0 -run '^TestLives$$' -v ./cmd/hsmbackup

guards: deps
	$(GO) run ./internal/guards -run '$(GUARDS)'

format:
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "not formatted by gofmt:"; echo "$$bad"; exit 1; fi

vet:
	$(GO) vet ./...

# The exceptions from staticcheck are lint:file-ignore lines, and they stand in
# internal/curve only: arithmetic on curves needs what crypto/elliptic advises
# against.
staticcheck:
	$(GO) tool staticcheck ./...
	@bad=$$(grep -rnE --include='*.go' '^[[:space:]]*//(lint:|nolint)' . | grep -v '^\./internal/curve/' || true); \
	if [ -n "$$bad" ]; then echo "exceptions from staticcheck outside internal/curve:"; echo "$$bad"; exit 1; fi

tidy:
	$(GO) mod tidy -diff

# -short leaves out repetitions, not tests: the detector makes each share's key
# derivation many times slower.
race:
	$(GO) test -race -short -timeout 45m ./cmd/...
	$(GO) test -race -short -timeout 45m -p 2 $(PACKAGES)

cross:
	@for target in $(CROSS); do \
		echo "CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) build ./..."; \
		CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) build ./... || exit 1; \
	done
	CGO_ENABLED=0 GOOS=windows GOARCH=amd64 $(GO) vet ./...

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

install: build
	install -D -m 755 bin/hsmbackup $(DESTDIR)$(PREFIX)/bin/hsmbackup

clean:
	rm -rf bin dist
