// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"context"
	"errors"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
)

// one is a provider of whose keys one version fails when it is used.
type one struct {
	bare
	name    string
	version uint32
}

func (o one) Open(ctx context.Context, name string, v uint32) (providers.Key, error) {
	k, err := o.bare.Open(ctx, name, v)
	if err == nil && name == o.name && k.Info().Version == o.version {
		return failing{k, &providers.Error{Code: providers.Device}}, nil
	}
	return k, err
}

// TestCheck: each version of each key is used, and one that fails is told, whichever it is.
func TestCheck(t *testing.T) {
	ctx, p := t.Context(), newSoftware(t)
	for _, name := range []string{"a", "b"} {
		if _, err := p.Generate(ctx, name, providers.HMACSHA256); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Rotate(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	type plain struct{ providers.Provider } // without Health
	for _, name := range []string{"a", "b", "none"} {
		for v := uint32(1); v <= 2; v++ {
			err := providers.Check(ctx, plain{one{bare{p}, name, v}})
			if fails := name != "none"; fails != errors.Is(err, providers.Device) || !fails && err != nil {
				t.Errorf("version %d of %s fails: %v", v, name, err)
			}
		}
	}
}
