// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"io"
)

// A Transport carries exchanges to one peer (§8.12). It is safe for concurrent use.
type Transport interface {
	// Open starts an exchange. It need not connect before the first byte is written or read. The exchange
	// ends at the latest when ctx does.
	Open(ctx context.Context) (Exchange, error)
}

// An Exchange is one message to the peer and one back. Reading may go on in one goroutine while
// another writes.
type Exchange interface {
	// Write takes bytes of the request. They may be kept back until Flush or CloseWrite.
	io.Writer
	// Flush sends what was written.
	Flush() error
	// CloseWrite sends the rest of the request and ends it.
	CloseWrite() error
	// Read reads the response. Where a transport cannot answer before the request is complete, it waits
	// for that.
	io.Reader
	// Close gives the exchange up, or ends it after the response was read. It never blocks for long.
	Close() error
}
