# make run   builds and starts loki-go with its data in ./data
# make test  runs everything that needs only Go and gcc
GO      ?= go
ARGS    ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: all build plugin run test integration chaos lint bench fuzz proto docs tools clients clean

all: build plugin

build:
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/loki-go ./cmd/loki-go

# The output plugin for Fluent Bit.
plugin:
	CGO_ENABLED=1 $(GO) build -buildmode=c-shared -o bin/out_loki-go.so ./plugins/fluentbit

run: build
	./bin/loki-go $(ARGS)

test:
	$(GO) vet ./...
	$(GO) test -race -timeout 5m ./...

# Stock Loki and logcli, which tests compare with, an S3 service, an emulator of
# Google Cloud Storage, Consul, and clients of OpenTelemetry. The first build
# takes minutes and 9 GB of module and build cache.
tools: bin/tools/loki bin/tools/logcli bin/tools/versitygw bin/tools/fake-gcs-server bin/tools/consul bin/tools/otelsdk bin/tools/otelcollector

bin/tools/loki bin/tools/logcli &: tools/loki/go.mod tools/loki/go.sum
	mkdir -p bin/tools
	cd tools/loki && $(GO) build -ldflags '-s -w' -o ../../bin/tools/ github.com/grafana/loki/v3/cmd/loki github.com/grafana/loki/v3/cmd/logcli
	touch bin/tools/loki bin/tools/logcli

bin/tools/versitygw: tools/s3/go.mod tools/s3/go.sum
	mkdir -p bin/tools
	cd tools/s3 && $(GO) build -ldflags '-s -w' -o ../../bin/tools/ github.com/versity/versitygw/cmd/versitygw
	touch bin/tools/versitygw

bin/tools/fake-gcs-server: tools/gcs/go.mod tools/gcs/go.sum
	mkdir -p bin/tools
	cd tools/gcs && $(GO) build -ldflags '-s -w' -o ../../bin/tools/ github.com/fsouza/fake-gcs-server
	touch bin/tools/fake-gcs-server

bin/tools/consul: tools/consul/go.mod tools/consul/go.sum
	mkdir -p bin/tools
	cd tools/consul && $(GO) build -ldflags '-s -w' -o ../../bin/tools/ github.com/hashicorp/consul
	touch bin/tools/consul

bin/tools/otelsdk bin/tools/otelcollector &: $(wildcard tools/otelclient/*/*.go) tools/otelclient/go.mod tools/otelclient/go.sum
	mkdir -p bin/tools
	cd tools/otelclient && $(GO) build -ldflags '-s -w' -o ../../bin/tools/otelsdk ./sdk
	cd tools/otelclient && $(GO) build -ldflags '-s -w' -o ../../bin/tools/otelcollector ./collector

# Real clients and servers of others, most of them Debian packages.
clients:
	mkdir -p bin/tools
	sh tools/clients.sh bin/tools

# Tests against real servers and clients, and the long versions of the others.
# With FLUENT_BIT (and FLUENTD) naming their programs these are run, too.
integration: tools clients build
	LOKI_GO_TOOLS=$(CURDIR)/bin/tools NODE_PATH=$(CURDIR)/bin/tools/node_modules \
		$(GO) test -count=1 -timeout 30m -parallel 3 -tags integration ./test/... ./plugins/... ./storage/... ./ring/... ./internal/testkit/...

# Kill the process 20 times under load, ROUNDS times, then do all that can be done
# to a cluster, for CHAOS and the rest of the round. LOKI_GO_SEED=N repeats the
# choices of a run, which prints its seed.
ROUNDS ?= 1
CHAOS  ?= 1h
chaos: tools clients build
	LOKI_GO_TOOLS=$(CURDIR)/bin/tools $(GO) test -count=$(ROUNDS) -timeout 120m -tags integration -v \
		-run 'Kill|PowerLoss|DiskFull|StoreFaults|StoreOutage|CacheFaults|Cluster|Retries' ./test
	LOKI_GO_TOOLS=$(CURDIR)/bin/tools LOKI_GO_CHAOS=$(CHAOS) $(GO) test -count=1 -timeout 24h -tags integration -v -run 'Chaos' ./test

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi
	mkdir -p bin/tools
	cd tools/lint && $(GO) build -o ../../bin/tools/ honnef.co/go/tools/cmd/staticcheck mvdan.cc/gofumpt
	$(GO) vet ./...
	bin/tools/staticcheck ./...
	@unformatted=$$(bin/tools/gofumpt -l $$(git ls-files '*.go' | grep -v 'pb\.go$$')); if [ -n "$$unformatted" ]; then echo "gofumpt would change: $$unformatted"; exit 1; fi

# BENCH='-bytes=100000000 -only=100' makes it short; -only=index, query, logql and
# cluster measure more, for which some need `make tools`.
BENCH ?=
bench: build
	$(GO) build -o bin/bench ./internal/bench/cmd
	./bin/bench -binary=bin/loki-go $(BENCH)

# Every fuzz target for FUZZTIME. Pooled memory makes coverage vary from run to
# run, on which minimising would spend all of the time.
FUZZTIME ?= 1m
fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg || exit 1; \
		done; \
	done

# Generated code. tools/proto needs no protoc.
proto:
	mkdir -p bin/tools
	cd tools/proto && $(GO) build -o ../../bin/tools/ . google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	bin/tools/proto proto

# The reference of all settings, from their help texts.
docs:
	$(GO) test -count=1 -run TestReference ./cmd/loki-go -update

clean:
	rm -rf bin
