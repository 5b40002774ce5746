// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"encoding/binary"
)

// A Counter is a provider whose device counts: up and never back, whatever happens to the disk, as an NV counter of a TPM
// does. Who seals something for storing can thereby tell the newest from those that were put back.
type Counter interface {
	// Count returns the counter that is beside a key, of all its versions, after counting up if that is wanted. It fails
	// with NotSupported if there is none.
	Count(ctx context.Context, key string, up bool) (uint64, error)
}

// Count returns the counter beside a key, after counting up if that is wanted. It fails with NotSupported, and with nothing
// else that is lasting, if there is none.
func Count(ctx context.Context, p Provider, key string, up bool) (uint64, error) {
	op := OpCount
	if up {
		op = OpCountUp
	}
	results := Do(ctx, p, []Operation{{Op: op, Key: key}}, true)
	if len(results) == 1 && results[0].Err != nil {
		return 0, results[0].Err
	}
	if len(results) != 1 || len(results[0].Output) != 8 {
		return 0, &Error{Code: Device, Op: "counting", Err: errAnswer}
	}
	return binary.BigEndian.Uint64(results[0].Output), nil
}

func count(ctx context.Context, p Provider, o *Operation) ([]byte, error) {
	const op = "counting"
	c, ok := p.(Counter)
	if !ok {
		return nil, &Error{Code: NotSupported, Op: op, Err: errCannot}
	}
	n, err := c.Count(ctx, o.Key, o.Op == OpCountUp)
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, n), nil
}

// Count counts beside a key, if its provider can.
func (j *Joined) Count(ctx context.Context, key string, up bool) (uint64, error) {
	p, own, _ := j.route(key)
	return Count(ctx, p, own, up)
}
