// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package secret_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/mslkeep/mslkeep/internal/secret"
)

const canary = "canary-key-bytes"

// holders are a secret in the places where it may get printed.
type public struct{ Key *secret.Bytes }
type private struct{ key *secret.Bytes }
type list []*secret.Bytes

func TestNothingPrints(t *testing.T) {
	s := secret.Take([]byte(canary))
	values := []any{s, &s, public{s}, &public{s}, private{s}, &private{s}, list{s}, map[string]*secret.Bytes{"k": s},
		reflect.ValueOf(s).Elem()}
	for _, v := range values {
		for verb := rune('A'); verb <= 'z'; verb++ {
			for _, flags := range []string{"", "+", "#", "-", " ", "0", "+#", "20.10"} {
				refuse(t, fmt.Sprintf("%T %%%s%c", v, flags, verb), fmt.Sprintf("%"+flags+string(verb), v))
			}
		}
		refuse(t, "Sprint", fmt.Sprint(v))
		refuse(t, "Errorf", fmt.Errorf("%w %v", io.EOF, v).Error())
		if out, err := json.Marshal(v); err == nil {
			refuse(t, "json", string(out))
		}
		if out, err := xml.Marshal(v); err == nil {
			refuse(t, "xml", string(out))
		}
		var out bytes.Buffer
		if err := gob.NewEncoder(&out).Encode(v); err == nil {
			refuse(t, "gob", out.String())
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("message", "key", v)
			refuse(t, "slog", out.String())
		}
	}
	if got, err := json.Marshal(public{s}); err != nil || string(got) != `{"Key":"[secret]"}` {
		t.Errorf("json: %s, %v", got, err)
	}
	for _, format := range []string{"%v", "%s", "%x", "%d", "%#v", "%q"} {
		if got := fmt.Sprintf(format, s); got != "[secret]" {
			t.Errorf("%s: %s", format, got)
		}
	}
}

// refuse fails if text shows the canary in any form.
func refuse(t *testing.T, how, text string) {
	t.Helper()
	lower := strings.ToLower(text)
	for _, form := range []string{canary, hex.EncodeToString([]byte(canary)), strings.Trim(fmt.Sprint([]byte(canary)), "[]"),
		base64.RawStdEncoding.EncodeToString([]byte(canary))[:20], fmt.Sprintf("% x", canary), fmt.Sprintf("%#v", []byte(canary))[7:40]} {
		if strings.Contains(lower, strings.ToLower(form)) {
			t.Errorf("%s shows the key: %s", how, text)
		}
	}
}

// TestSurface fails when a field is exported, or a method that could hand out the bytes.
func TestSurface(t *testing.T) {
	typ := reflect.TypeFor[secret.Bytes]()
	if typ.Comparable() {
		t.Error("Bytes is comparable")
	}
	for i := range typ.NumField() {
		if f := typ.Field(i); f.IsExported() {
			t.Errorf("field %s is exported", f.Name)
		}
	}
	harmless := map[string]bool{"String": true, "GoString": true, "MarshalText": true, "MarshalJSON": true, "Format": true,
		"Len": true, "Equal": true, "Wipe": true}
	ptr := reflect.PointerTo(typ)
	for i := range ptr.NumMethod() {
		if m := ptr.Method(i); !harmless[m.Name] {
			t.Errorf("method %s was never judged: does it hand out the bytes?", m.Name)
		}
	}
}

func TestBytes(t *testing.T) {
	raw := []byte(canary)
	s := secret.Take(raw)
	if &secret.Reveal(s)[0] != &raw[0] {
		t.Error("Take or Reveal copies")
	}
	if !s.Equal(secret.Take([]byte(canary))) || s.Equal(secret.New(len(canary))) || s.Equal(nil) {
		t.Error("Equal is wrong")
	}
	s.Wipe()
	s.Wipe()
	if s.Len() != 0 || secret.Reveal(s) != nil || !bytes.Equal(raw, make([]byte, len(canary))) {
		t.Error("Wipe left something")
	}
	if secret.New(3).Len() != 3 || secret.Random(32).Equal(secret.Random(32)) {
		t.Error("New or Random is wrong")
	}
	var none *secret.Bytes
	none.Wipe()
	if none.Len() != 0 || secret.Reveal(none) != nil {
		t.Error("nil is not empty")
	}
	long := append(make([]byte, 0, 8), "abcdefgh"...)
	secret.Wipe(long[:2])
	if !bytes.Equal(long, make([]byte, 8)) {
		t.Error("Wipe spares what is beyond the length")
	}
}

func TestConcurrentWipe(t *testing.T) {
	s := secret.Random(32)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_ = s.Len()
			s.Wipe()
			_ = secret.Reveal(s)
		})
	}
	wg.Wait()
}

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	for _, want := range []string{"a_b 010203\n", "a_b 010203\na_b 010203\n"} { // the second time it is there
		l, err := secret.OpenLog(path)
		if err != nil {
			t.Fatal(err)
		}
		l.Add("a b", secret.Take([]byte{1, 2, 3}))
		l.Add("empty", nil)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l.Add("late", secret.Random(4))
		if got, _ := os.ReadFile(path); string(got) != want {
			t.Errorf("got %q", got)
		}
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	var off *secret.Log
	off.Add("x", secret.Random(4))
	if err := off.Close(); err != nil {
		t.Error(err)
	}
}

func TestLogRefusesOthersFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(at("readable"), nil, 0o644))
	must(os.WriteFile(at("good"), nil, 0o600))
	must(os.Symlink(at("good"), at("symlink")))
	must(os.WriteFile(at("linked"), nil, 0o600))
	must(os.Link(at("linked"), at("hardlink")))
	must(syscall.Mkfifo(at("pipe"), 0o600))
	for _, name := range []string{"readable", "symlink", "hardlink", "pipe", ".", "missing/dir"} {
		if l, err := secret.OpenLog(at(name)); err == nil {
			t.Errorf("%s: opened", name)
			l.Close()
		}
	}
}
