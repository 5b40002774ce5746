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

func TestDecoderUnreadKeepsWhatCameBefore(t *testing.T) {
	d := NewDecoder(strings.NewReader(`{"a":1} {"b":2}x`), Limits{})
	for range 2 {
		if _, err := d.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if !d.Ready() {
		t.Error("the error that follows is not ready")
	}
	d.Unread()
	if o, err := d.Next(); err != nil || string(o.Encoding()) != `{"b":2}` {
		t.Errorf("%q, %v", o.Encoding(), err)
	}
	d.Unread()
	if _, err := d.NextHeader(); err == nil {
		t.Error("white space before a header was forgotten")
	}
	d.Unread()
}
