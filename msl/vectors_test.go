// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// TestVectors compares with the reference. Of the reference's behaviours it shows 15 (compression), 61 to 70
// (entityauth, userauth), 71, 79 and 80 (keyx), 86 to 98 (messages, messages-refused, errorheaders), 99
// (capabilities), 100 to 109 (payload, handshake, key-response, token-life, replay) and 114 to 117 (responses).
func TestVectors(t *testing.T) {
	t.Run("errors", errorVectors)
	t.Run("capabilities", func(t *testing.T) {
		msltest.Vectors(t, "capabilities.json", map[string]func(msltest.Case) error{
			"encode": checkCapabilities, "intersection": checkIntersection, "preferred-compression": checkPreferred,
		})
	})
	t.Run("compression", func(t *testing.T) {
		data := make(map[string][]byte) // of long inputs, which only the first group holds
		for _, c := range msltest.Cases(t, "compression.json") {
			if c.Group == "lzw" {
				data[c.Name] = c.Bytes("data")
			}
		}
		msltest.Vectors(t, "compression.json", map[string]func(msltest.Case) error{
			"lzw": nil, "compress": func(c msltest.Case) error { return checkCompress(c, data) }, "uncompress": checkUncompress,
		})
	})
	t.Run("entityauth", entityAuthVectors)
	t.Run("userauth", func(t *testing.T) {
		msltest.Vectors(t, "userauth.json", map[string]func(msltest.Case) error{
			"encode": checkUserEncode, "authenticate": func(c msltest.Case) error { return checkAuthenticate(t, c) },
		})
	})
	t.Run("keyx", func(t *testing.T) {
		msltest.Vectors(t, "keyx.json", map[string]func(msltest.Case) error{
			"exchange": nil, "respond": nil, "complete": nil,
			"parse-request": checkKeyRequest, "parse-response": checkKeyResponse,
		})
	})
	t.Run("errorheaders", errorHeaderVectors)
	t.Run("messages", messageVectors)
	t.Run("messages-refused", refusedVectors)
	t.Run("responses", responseVectors)
	t.Run("tokens", tokenVectors)
}

// refused compares an error with the one that the reference gave. Where that is nil, the caller
// compares results. done says that there is nothing left to compare.
func refused(c msltest.Case, err error) (done bool, differs error) {
	want := c.Refused()
	switch {
	case want == nil && err == nil:
		return false, nil
	case want == nil:
		return true, fmt.Errorf("refused: %w", err)
	case err == nil:
		return true, fmt.Errorf("accepted; the reference refuses with %s", want.Name)
	case want.Name == "":
		return true, nil
	}
	got := msl.CodeOf(err)
	if got.Name() != want.Name || int(got) != want.Code || got.Response().String() != want.Response {
		return true, fmt.Errorf("refused with %s (%v), the reference with %s", got.Name(), err, want.Name)
	}
	return true, nil
}

func errorVectors(t *testing.T) {
	var doc struct {
		Codes []struct {
			Name string
			Code int
		} `json:"response_codes"`
		Errors []struct {
			Name     string
			Code     int
			Response string
			Number   int `json:"response_code"`
		}
	}
	msltest.VectorFile(t, "errors.json", &doc)
	for _, r := range doc.Codes {
		if msl.ResponseCode(r.Code).String() != r.Name {
			t.Errorf("response code %d is %s, want %s", r.Code, msl.ResponseCode(r.Code), r.Name)
		}
	}
	for _, e := range doc.Errors {
		c := msl.Code(e.Code)
		if c.Name() != e.Name || c.Response().String() != e.Response || int(c.Response()) != e.Number {
			t.Errorf("%d is %s, %s; want %s, %s", e.Code, c.Name(), c.Response(), e.Name, e.Response)
		}
	}
	fmt.Printf("vectors errors.json: %d passed, 0 deviating of %d\n", len(doc.Errors), len(doc.Errors))
}

type capabilities struct{ Compression, Languages, Formats []string }

func (c *capabilities) msl() *msl.Capabilities {
	if c == nil {
		return nil
	}
	return &msl.Capabilities{Compression: c.Compression, Languages: c.Languages, Formats: c.Formats}
}

func sameCapabilities(got *msl.Capabilities, want *capabilities) error {
	if got == nil || want == nil {
		if got != nil || want != nil {
			return fmt.Errorf("capabilities: got %v, want %v", got, want)
		}
		return nil
	}
	set := func(s []string) []string {
		s = slices.Clone(s)
		slices.Sort(s)
		return slices.Compact(s)
	}
	if !slices.Equal(set(got.Compression), set(want.Compression)) || !slices.Equal(got.Languages, want.Languages) ||
		!slices.Equal(set(got.Formats), set(want.Formats)) {
		return fmt.Errorf("capabilities: got %+v, want %+v", *got, *want)
	}
	return nil
}

func checkCapabilities(c msltest.Case) error {
	want := new(capabilities)
	c.Into("capabilities", want)
	got, err := msl.ParseCapabilities(c.Bytes("output"))
	if err != nil {
		return err
	}
	if err := sameCapabilities(got, want); err != nil {
		return err
	}
	return sameJSON(want.msl().EncodeForTest(), c.Bytes("output"))
}

func checkIntersection(c msltest.Case) error {
	var a, b, want *capabilities
	c.Into("a", &a)
	c.Into("b", &b)
	c.Into("output", &want)
	return sameCapabilities(a.msl().Intersect(b.msl()), want)
}

func checkPreferred(c msltest.Case) error {
	var available []string
	c.Into("available", &available)
	caps := &msl.Capabilities{Compression: available}
	want := c.String("output")
	if want == "null" {
		want = ""
	}
	if got := caps.Preferred(); got != want {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}

// sameJSON compares two encodings without regard to the order of members.
func sameJSON(got, want []byte) error {
	var a, b any
	if err := json.Unmarshal(got, &a); err != nil {
		return fmt.Errorf("our encoding: %w", err)
	}
	if err := json.Unmarshal(want, &b); err != nil {
		return err
	}
	if !reflect.DeepEqual(a, b) {
		return fmt.Errorf("encodings differ: %s and %s", got, want)
	}
	return nil
}

func checkCompress(c msltest.Case, named map[string][]byte) error {
	data := c.Bytes("data")
	if !c.Has("data") {
		_, name, _ := strings.Cut(c.Name, "-")
		data = named[name]
	}
	if err := sameData(data, c); err != nil {
		return err
	}
	got := msl.Compress(c.String("algorithm"), data)
	if shorter := c.Bool("shorter"); shorter != (got != nil) {
		return fmt.Errorf("%d bytes became %d; the reference found them shorter: %v", len(data), len(got), shorter)
	}
	if got == nil {
		return nil
	}
	back, err := msl.Uncompress(c.String("algorithm"), got, 1<<20)
	if err != nil || !bytes.Equal(back, data) {
		return fmt.Errorf("does not come back: %v", err)
	}
	return nil
}

func checkUncompress(c msltest.Case) error {
	got, err := msl.Uncompress(c.String("algorithm"), c.Bytes("input"), 16<<20)
	if done, differs := refused(c, err); done {
		return differs
	}
	return sameData(got, c)
}

func sameData(got []byte, c msltest.Case) error {
	if n := c.Int("length"); c.Has("length") && int(n) != len(got) {
		return fmt.Errorf("%d bytes, want %d", len(got), n)
	}
	for _, name := range []string{"sha256", "data_sha256"} {
		if sum := sha256.Sum256(got); c.Has(name) && c.String(name) != hex.EncodeToString(sum[:]) {
			return errors.New("data differs")
		}
	}
	if c.Has("data") && !bytes.Equal(got, c.Bytes("data")) {
		return errors.New("data differs")
	}
	return nil
}

func checkUserEncode(c msltest.Case) error {
	if c.String("scheme") == "EMAIL_PASSWORD" {
		d := msl.EmailPassword(c.String("email"), c.String("password"))
		return sameJSON(d.EncodeForTest(), c.Bytes("output"))
	}
	earlier := &msl.State{MasterToken: c.Bytes("master_token"), UserIDTokens: map[string][]byte{"me": c.Bytes("user_id_token")}}
	if c.Name == "user-id-token-unbound" {
		earlier = unboundState(c)
	}
	d, err := msl.EarlierUserIDToken(earlier, "me")
	if done, differs := refused(c, err); done {
		return differs
	}
	return sameJSON(d.EncodeForTest(), c.Bytes("output"))
}

// unboundState holds tokens that do not belong together.
func unboundState(c msltest.Case) *msl.State {
	master := fmt.Sprintf(`{"renewalwindow":1,"expiration":2,"sequencenumber":1,"serialnumber":%d,"sessiondata":"AA=="}`, c.Int("master_token_serial"))
	user := fmt.Sprintf(`{"renewalwindow":1,"expiration":2,"mtserialnumber":%d,"serialnumber":1,"userdata":"AA=="}`, c.Int("user_id_token_mt_serial"))
	return &msl.State{
		MasterToken:  msl.Token{Data: []byte(master), Signature: []byte{1}}.Encoding(),
		UserIDTokens: map[string][]byte{"me": msl.Token{Data: []byte(user), Signature: []byte{1}}.Encoding()},
	}
}

func checkAuthenticate(t testing.TB, c msltest.Case) error {
	cfg := vectorConfig()
	if c.Name == "factory-not-registered" {
		cfg.Users = nil
	}
	var beside *msl.UserIDToken
	if u := c.String("beside_user_id_token_of"); u != "" {
		beside = &msl.UserIDToken{Verified: true, User: u}
	}
	user, err := msl.AuthenticateUser(context.Background(), cfg, inproc.Agent(t), c.Bytes("document"), c.String("entity"), true, beside)
	if done, differs := refused(c, err); done {
		return differs
	}
	if user != c.String("user") {
		return fmt.Errorf("user %q, want %q", user, c.String("user"))
	}
	return nil
}

func checkKeyRequest(c msltest.Case) error {
	r, err := msl.ParseKeyRequest(c.Bytes("document"))
	if done, differs := refused(c, err); done {
		return differs
	}
	if r.Scheme != c.String("scheme") {
		return fmt.Errorf("scheme %q", r.Scheme)
	}
	return sameJSON(r.EncodeForTest(), c.Bytes("document"))
}

func checkKeyResponse(c msltest.Case) error {
	r, err := msl.ParseKeyResponse(c.Bytes("document"))
	if done, differs := refused(c, err); done {
		return differs
	}
	if r.Scheme != c.String("scheme") {
		return fmt.Errorf("scheme %q", r.Scheme)
	}
	return sameJSON(r.EncodeForTest(), c.Bytes("document"))
}
