# make demo   builds everything and runs the main job on this machine
# make demo-full  the same with keys in an HSM, in a TPM and in Vault: SoftHSM, swtpm and a real Vault, built the first time
# make test   installs what tests need (on Debian, as root), builds everything, runs every test with the race detector
# make lint   gofmt, vet, staticcheck, go mod tidy
# make bench  the benchmarks that README.md quotes
# make generate   contract B's code, after a change of providers/provider.proto (needs protoc)
# make simulate  10,000 exchanges of SEEDS simulated networks (default 20)
# make fuzz   each fuzz target for FUZZTIME (default 1m)

GO       ?= go
FUZZTIME ?= 1m
SEEDS    ?= 20
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build demo demo-full test lint bench simulate fuzz generate clean

build:
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/mslkeep-agent ./cmd/mslkeep-agent
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/mslkeep-scan ./cmd/mslkeep-scan
	CGO_ENABLED=1 $(GO) build -trimpath -o bin/mslkeep-provider-pkcs11 ./cmd/mslkeep-provider-pkcs11
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/mslkeep-provider-tpm ./cmd/mslkeep-provider-tpm
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/mslkeep-provider-vault ./cmd/mslkeep-provider-vault
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/mslkeep-enrol ./cmd/mslkeep-enrol
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/mslkeep -ldflags "\
		-X main.agentSHA256=$$(sha256sum bin/mslkeep-agent | cut -d' ' -f1) \
		-X main.scanSHA256=$$(sha256sum bin/mslkeep-scan | cut -d' ' -f1) \
		-X main.enrolSHA256=$$(sha256sum bin/mslkeep-enrol | cut -d' ' -f1)" ./cmd/mslkeep

demo: build
	bin/mslkeep demo

demo-full:
	@cd softhsm-test && $(GO) test -count=1 -timeout 30m -run '^TestFullDeployment$$' -args -demo

test: build
	@.ci/install
	@softhsm-test/vaultserver/build.sh >/dev/null
	$(GO) test -race -timeout 40m ./...
	@echo "the reference's vectors:"
	@$(GO) test -count=1 -v -run '^TestVectors$$' ./internal/... ./msl | grep '^vectors'

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(STATICCHECK) ./...

bench: build
	bin/mslkeep bench
	$(GO) test -run '^$$' -bench . ./internal/... ./agent ./msl ./entities
	$(GO) test -run '^$$' -bench Entities -benchtime 1x ./cmd/mslkeep
	$(GO) test -run '^$$' -bench 'NewTokens|Echo|TPM' -benchtime 20x ./softhsm-test
	$(GO) test -run '^$$' -bench Vault -benchtime 1x ./softhsm-test

simulate:
	$(GO) test -count=1 -timeout 0 -v -run '^TestSimulation$$' ./internal/msltest/sim -seeds $(SEEDS) -exchanges 10000

fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg || exit 1; \
		done; \
	done

generate:
	GO=$(GO) providers/generate.sh

clean:
	rm -rf bin
