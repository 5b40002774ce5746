// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// newReplies makes an empty reply by code, as newRequest does requests.
var newReplies = func() map[uint8]func() message {
	replies := map[uint8]func() message{}
	for _, m := range []message{new(HelloReply), new(OpenMasterTokenReply), new(SealReply), new(OpenReply),
		new(EntityContextReply), new(IssueReply), new(OpenUserIDTokenReply), new(IssueUserIDTokenReply),
		new(OpenServiceTokenReply), new(SealServiceTokenReply), new(BeginExchangeReply), new(FinishExchangeReply),
		new(SealSessionReply), new(UnsealSessionReply), new(ReleaseReply), new(HealthReply), new(KeysReply),
		new(ChangedKeysReply), new(PublicKeyReply), new(Error)} {
		t := reflect.TypeOf(m).Elem()
		replies[m.code()] = func() message { return reflect.New(t).Interface().(message) }
	}
	return replies
}()

// empty returns a new message with that code, or nil.
func empty(code uint8) message {
	if r := newRequest(code); r != nil {
		return r
	}
	if f := newReplies[code]; f != nil {
		return f()
	}
	return nil
}

func eachMessage(f func(m message)) {
	for code := range 256 {
		if m := empty(uint8(code)); m != nil {
			f(m)
		}
	}
}

// fill sets everything below v to random values.
func fill(r *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Owned" { // does not travel
				fill(r, v.Field(i))
			}
		}
	case reflect.Slice:
		n := r.IntN(4)
		if n == 0 {
			v.SetZero()
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(r, v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.String:
		v.SetString(fmt.Sprint(r.Uint32())[:r.IntN(2)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 1)
	case reflect.Int32, reflect.Int64:
		v.SetInt(int64(int32(r.Uint32())))
	case reflect.Uint8:
		v.SetUint(uint64(r.IntN(9) + 1)) // a valid Code, too
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(r.Uint32()))
	default:
		panic(v.Type().String())
	}
}

func encoded(t *testing.T, m message) []byte {
	t.Helper()
	var c coder
	n, ok := c.measure(m)
	if !ok {
		t.Fatalf("%T cannot be measured", m)
	}
	b := c.encode(nil, m)
	if len(b) != n {
		t.Fatalf("%T measures %d bytes and encodes to %d", m, n, len(b))
	}
	return b
}

func TestCodecRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	eachMessage(func(m message) {
		for range 50 {
			fill(r, reflect.ValueOf(m).Elem())
			b := encoded(t, m)
			got := empty(m.code())
			var c coder
			if !c.decode(b, got) || !reflect.DeepEqual(m, got) {
				t.Fatalf("%T came back different:\n%+v\n%+v", m, m, got)
			}
			for n := range b {
				if c.decode(b[:n:n], empty(m.code())) {
					t.Fatalf("%T: %d bytes of %d accepted", m, n, len(b))
				}
			}
			if c.decode(append(slices.Clip(b), 0), empty(m.code())) {
				t.Fatalf("%T: trailing byte accepted", m)
			}
		}
	})
}

// Whatever is accepted has one encoding only.
func checkCanonical(t *testing.T, code uint8, b []byte) {
	m := empty(code)
	if m == nil {
		return
	}
	var c coder
	if !c.decode(b, m) {
		return
	}
	if again := encoded(t, m); !bytes.Equal(again, b) {
		t.Errorf("%T: %x was accepted, and is encoded as %x", m, b, again)
	}
}

func TestCodecEveryByteFlipped(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	eachMessage(func(m message) {
		fill(r, reflect.ValueOf(m).Elem())
		b := encoded(t, m)
		for i := range b {
			for bit := range 8 {
				b[i] ^= 1 << bit
				checkCanonical(t, m.code(), b)
				b[i] ^= 1 << bit
			}
		}
	})
}

func TestCodecLimits(t *testing.T) {
	var c coder
	for _, m := range []message{
		&KeysRequest{Prefix: string(make([]byte, maxText+1))},
		&ReleaseRequest{Handles: make([]Handle, maxItems+1)},
	} {
		if _, ok := c.measure(m); ok {
			t.Errorf("%T beyond its limits can be sent", m)
		}
		if c.decode(c.encode(nil, m), empty(m.code())) {
			t.Errorf("%T beyond its limits can be received", m)
		}
	}
	// A length that promises more than there is allocates nothing.
	b := []byte{0, 0, 0xff, 0xff}
	if n := testing.AllocsPerRun(10, func() { c.decode(b, &ReleaseRequest{}) }); n > 1 {
		t.Errorf("a short list allocates %v times", n)
	}
}

func FuzzMessages(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	eachMessage(func(m message) {
		fill(r, reflect.ValueOf(m).Elem())
		var c coder
		f.Add(m.code(), c.encode(nil, m))
	})
	f.Fuzz(checkCanonical)
}

// No message can carry a key: every field of bytes or text says what it holds.
func TestMessagesHoldNoKeys(t *testing.T) {
	allowed := []string{"ciphertext", "signature", "token", "plaintext", "public", "name", "text", "sealed"}
	var walk func(path string, typ reflect.Type, holds string)
	walk = func(path string, typ reflect.Type, holds string) {
		if pkg := typ.PkgPath(); pkg != "" && pkg != reflect.TypeFor[Handle]().PkgPath() {
			t.Errorf("%s is of a type of package %s", path, pkg)
		}
		switch typ.Kind() {
		case reflect.Struct:
			for i := range typ.NumField() {
				sf := typ.Field(i)
				if !sf.IsExported() {
					t.Errorf("%s.%s is not exported", path, sf.Name)
				}
				walk(path+"."+sf.Name, sf.Type, sf.Tag.Get("holds"))
			}
		case reflect.Slice:
			if typ.Elem().Kind() != reflect.Uint8 {
				walk(path, typ.Elem(), holds)
				return
			}
			fallthrough
		case reflect.String:
			if !slices.Contains(allowed, holds) {
				t.Errorf("%s holds %q", path, holds)
			}
		case reflect.Array:
			if typ != reflect.TypeFor[Handle]() {
				t.Errorf("%s is an array", path)
			}
		case reflect.Bool, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		default:
			t.Errorf("%s is of kind %v", path, typ.Kind())
		}
	}
	n := 0
	eachMessage(func(m message) {
		if _, ok := m.(*Error); !ok { // two numbers and a text, made by hand
			walk(fmt.Sprintf("%T", m), reflect.TypeOf(m).Elem(), "")
			n++
		}
	})
	if want := len(requests) - 1 + len(newReplies) - 1; n != want {
		t.Errorf("walked %d messages of %d", n, want)
	}
}
