// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software_test

import (
	"testing"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providers.Provider {
		p, _, _ := fresh(t)
		return p
	}, providertest.Options{TooLarge: 64<<20 + 1})
}
