// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package mslenc

import (
	"io"
	"strings"
	"testing"
)

func TestDecoderUnread(t *testing.T) {
	d := NewDecoder(strings.NewReader(`{"a":1} {"b":2}{"c":3}`), Limits{})
	for _, want := range []string{`{"a":1}`, `{"b":2}`, `{"c":3}`} {
		for range 3 {
			o, err := d.Next()
			if err != nil || string(o.Encoding()) != want {
				t.Fatalf("got %q, %v; want %q", o.Encoding(), err, want)
			}
			d.Unread()
		}
		if !d.Ready() {
			t.Fatal("not ready after Unread")
		}
		d.Next()
	}
	if _, err := d.Next(); err != io.EOF {
		t.Fatalf("at the end: %v", err)
	}
}
