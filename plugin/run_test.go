// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	leakCheck(t)
	for code, args := range map[int][]string{0: {"-test.run=^$"}, 2: {"-test.no-such-flag"}} {
		var out, log bytes.Buffer
		s := spec(t, args...)
		s.Log = &log
		got, err := Run(t.Context(), s, &out)
		if err != nil || got != code || out.Len()+log.Len() == 0 {
			t.Errorf("%q: code %d, %v, output %q, %q", args, got, err, &out, &log)
		}
	}
	s := spec(t)
	s.SHA256 = strings.Repeat("0", 64)
	if _, err := Run(t.Context(), s, nil); !errors.Is(err, ErrHashMismatch) {
		t.Errorf("another binary: %v", err)
	}
}
