#!/bin/sh
# Generates the code of contract B, for Go and for the example in Python, with protoc 3.21 (Debian 12's
# protobuf-compiler), protoc-gen-go v1.36.6 and protoc-gen-go-grpc v1.3.0, which go with go.mod's versions.
set -eu
cd "$(dirname "$0")"
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOBIN=$bin ${GO:-go} install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.6
GOBIN=$bin ${GO:-go} install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.3.0
PATH=$bin:$PATH protoc --go_out=internal/pb --go_opt=paths=source_relative \
	--go-grpc_out=internal/pb --go-grpc_opt=paths=source_relative provider.proto
protoc --python_out=../examples/python-provider provider.proto
