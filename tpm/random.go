// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// Random returns n bytes of the chip's generator, which travel encrypted.
func (p *Provider) Random(ctx context.Context, n int) ([]byte, error) {
	const op = "making random bytes"
	if n < 1 || n > providers.MaxRandom {
		return nil, failure(providers.Malformed, op, errSize)
	}
	return do(ctx, p, op, useKeys, func(c *chip) ([]byte, error) {
		out := make([]byte, 0, n)
		for len(out) < n {
			response, err := tpm2.GetRandom{BytesRequested: uint16(min(n-len(out), 32))}.Execute(c, c.plain.with(nil, encryptOut))
			if err != nil {
				return nil, err
			}
			got := response.RandomBytes.Buffer
			if len(got) == 0 || len(got) > n-len(out) {
				return nil, lostError{errResponse}
			}
			out = append(out, got...)
		}
		return out, nil
	})
}
