// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"reflect"
)

// Direct calls a Handler in the same process, without frames. It is for tests and benchmarks; the
// product always has a process between the two. Unlike Client, replies may share memory with requests.
type Direct struct{ Handler Handler }

// Call is as [Client.Call].
func (d Direct) Call(ctx context.Context, req Request, reply Reply) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m, err := d.Handler.Handle(ctx, req)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return asError(err)
	case m == nil || m.code() != reply.code():
		return Fail(Device, "no reply of the request")
	}
	reflect.ValueOf(reply).Elem().Set(reflect.ValueOf(m).Elem())
	return nil
}
