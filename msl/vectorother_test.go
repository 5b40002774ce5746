// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

func entityAuthVectors(t *testing.T) {
	msltest.Vectors(t, "entityauth.json", map[string]func(msltest.Case) error{
		"encode":  func(c msltest.Case) error { return checkEntityEncode(t, c) },
		"parse":   func(c msltest.Case) error { return checkEntityParse(t, c) },
		"context": func(c msltest.Case) error { return checkEntityContext(t, c) },
	})
}

func checkEntityEncode(t testing.TB, c msltest.Case) error {
	d, err := vectorEntity(t, c)
	if err != nil {
		return err
	}
	encrypts, protects, err := msl.SchemeFlags(d.Scheme)
	if err != nil || encrypts != c.Bool("encrypts") || protects != c.Bool("protects_integrity") {
		return fmt.Errorf("flags %v, %v: %v", encrypts, protects, err)
	}
	if d.Identity() != c.String("identity") {
		return fmt.Errorf("identity %q", d.Identity())
	}
	if d.Scheme != "MT_PROTECTED" {
		return sameJSON(d.Encoding(), c.Bytes("output"))
	}
	for _, encoded := range [][]byte{d.Encoding(), c.Bytes("output")} { // no two are encrypted alike
		got, err := vectorConfig().ParseRemote(context.Background(), inproc.Agent(t), encoded)
		if err != nil || got.Identity() != d.Identity() || got.Scheme != d.Scheme {
			return fmt.Errorf("opened to %q: %w", got.Identity(), err)
		}
	}
	return nil
}

// vectorEntity makes the data that a case describes.
func vectorEntity(t testing.TB, c msltest.Case) (msl.EntityAuthData, error) {
	var fields struct {
		Identity, PubKeyID, PSKID, Profile, Certificate, Root, Suffix string
		MasterToken                                                   []byte `json:"master_token"`
		InnerScheme                                                   string `json:"inner_scheme"`
		InnerIdentity                                                 string `json:"inner_identity"`
	}
	c.Into("fields", &fields)
	switch c.String("scheme") {
	case "PSK":
		return msl.PSK(fields.Identity), nil
	case "PSK_PROFILE":
		return msl.PSKProfile(fields.PSKID, fields.Profile), nil
	case "X509":
		return fixtureX509(fields.Certificate)
	case "RSA":
		return msl.RSA(fields.Identity, fields.PubKeyID), nil
	case "ECC":
		return msl.ECC(fields.Identity, fields.PubKeyID), nil
	case "NONE":
		return msl.None(fields.Identity), nil
	case "NONE_SUFFIXED":
		return msl.NoneSuffixed(fields.Root, fields.Suffix), nil
	case "PROVISIONED":
		return msl.Provisioned(), nil
	case "MT_PROTECTED":
		inner := msl.PSK(fields.InnerIdentity)
		if fields.InnerScheme == "NONE" {
			inner = msl.None(fields.InnerIdentity)
		}
		return msl.MTProtected(context.Background(), knownSession{inproc.Session(t)}, &msl.State{MasterToken: fields.MasterToken}, inner)
	}
	return msl.EntityAuthData{}, errors.New("an unknown scheme")
}

// fixtureX509 is an entity with a certificate of the fixtures.
func fixtureX509(name string) (msl.EntityAuthData, error) {
	certificate, err := x509.ParseCertificate(inproc.Fixtures().Certificates[name].DER)
	if err != nil {
		return msl.EntityAuthData{}, err
	}
	return msl.X509(certificate, name)
}

// A knownSession unseals anything to the same session.
type knownSession struct{ session msl.CryptoContext }

func (knownSession) SealSession(context.Context, msl.CryptoContext) ([]byte, error) { return nil, nil }
func (k knownSession) UnsealSession(context.Context, []byte, msl.Token) (msl.CryptoContext, error) {
	return k.session, nil
}

// seal protects encoded data of any scheme (§5.6).
func (k knownSession) seal(ctx context.Context, token, inner []byte) ([]byte, error) {
	parts, err := k.session.Seal(ctx, [][]byte{inner})
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"scheme":"MT_PROTECTED","authdata":{"mastertoken":%s,"authdata":%q,"signature":%q}}`, token,
		base64.StdEncoding.EncodeToString(parts[0].Data), base64.StdEncoding.EncodeToString(parts[0].Signature)), nil
}

func checkEntityParse(t testing.TB, c msltest.Case) error {
	cfg := vectorConfig()
	if c.Name == "factory-not-registered" {
		cfg.EntitySchemes = []string{}
	}
	d, err := cfg.ParseRemote(context.Background(), inproc.Agent(t), c.Bytes("document"))
	if done, differs := refused(c, err); done {
		return differs
	}
	if d.Scheme != c.String("scheme") || d.Identity() != c.String("identity") {
		return fmt.Errorf("%s %q", d.Scheme, d.Identity())
	}
	return sameJSON(d.Encoding(), c.Bytes("document"))
}

func checkEntityContext(t testing.TB, c msltest.Case) error {
	ctx := context.Background()
	context, d, err := msl.RemoteContext(ctx, vectorConfig(), inproc.Agent(t), c.Bytes("document"))
	if done, differs := refused(c, err); done {
		return differs
	}
	if d.Identity() != c.String("identity") {
		return fmt.Errorf("identity %q", d.Identity())
	}
	parts := []msl.Part{{Data: c.Bytes("data"), Signature: c.Bytes("signature")}}
	if !bytes.Equal(c.Bytes("ciphertext"), c.Bytes("data")) && c.Has("ciphertext") {
		// The case has ciphertext and signature of the same data; a message has the signature of the ciphertext.
		if parts, err = context.Seal(ctx, [][]byte{c.Bytes("data")}); err != nil {
			return err
		}
	}
	plain, err := context.Open(ctx, parts)
	if err != nil {
		return err
	}
	if !bytes.Equal(plain[0], c.Bytes("data")) {
		return errors.New("opened to something else")
	}
	return nil
}

func errorHeaderVectors(t *testing.T) {
	msltest.Vectors(t, "errorheaders.json", map[string]func(msltest.Case) error{
		"encode":  func(c msltest.Case) error { return checkErrorEncode(t, c) },
		"factory": func(c msltest.Case) error { return checkErrorFactory(t, c) },
		"parse":   func(c msltest.Case) error { return checkErrorParse(t, c) },
	})
}

func checkErrorEncode(t testing.TB, c msltest.Case) error {
	ctx := context.Background()
	cfg := vectorConfig()
	cfg.Entity = msl.EntityAuthData{}
	if c.Has("entity_auth_data") {
		var err error
		if cfg.Entity, err = msl.ParseEntityAuthData(c.Bytes("entity_auth_data")); err != nil {
			return err
		}
		if cfg.Entity.Scheme == "X509" { // the name of whose key does not travel
			cfg.Entity, _ = fixtureX509("x_leaf")
		}
	}
	e := &msl.RemoteError{
		MessageID: c.Int("message_id"), Timestamp: vectorTime.Unix(), Response: msl.ResponseCode(c.Int("error_code")),
		InternalCode: int32(c.Int("internal_code")), Text: c.String("error_message"), UserText: c.String("user_message"),
	}
	ours, err := e.SealForTest(ctx, cfg, inproc.Agent(t))
	if done, differs := refused(c, err); done {
		return differs
	}
	if err := sameJSON(e.EncodeForTest(), c.Bytes("errordata")); err != nil {
		return err
	}
	want := e.InternalCode
	if want <= 0 {
		want = -1
	}
	for _, message := range [][]byte{ours, c.Bytes("message")} {
		m, err := server(t, vectorConfig()).Open(ctx, bytes.NewReader(message))
		if err != nil {
			return err
		}
		got := *m.Err
		if got.InternalCode != want {
			return fmt.Errorf("internal code %d", got.InternalCode)
		}
		got.InternalCode, got.Entity = e.InternalCode, msl.EntityAuthData{}
		if got != *e {
			return fmt.Errorf("came back as %+v", got)
		}
	}
	return nil
}

// checkErrorFactory compares all but the text, whose wording is each stack's own (§9).
func checkErrorFactory(t testing.TB, c msltest.Case) error {
	ctx := context.Background()
	var code msl.Code
	for n := msl.Code(100000); n < 110000; n++ {
		if n.Name() == c.String("error") {
			code = n
		}
	}
	failed := &msl.Error{Code: code, MessageID: c.Int("request_message_id")}
	message, err := msl.SealError(ctx, vectorConfig(), inproc.Agent(t), failed, nil)
	if err != nil {
		return err
	}
	m, err := server(t, vectorConfig()).Open(ctx, bytes.NewReader(message))
	if err != nil {
		return err
	}
	return sameError(m.Err, c, false)
}

func checkErrorParse(t testing.TB, c msltest.Case) error {
	m, err := server(t, vectorConfig()).Open(context.Background(), bytes.NewReader(c.Bytes("message")))
	if done, differs := refused(c, err); done {
		if differs == nil {
			return sameMessageID(c, err)
		}
		return differs
	}
	if m.Err == nil {
		return errors.New("not taken for an error message")
	}
	if _, err := io.ReadAll(m); err == nil || err == io.EOF {
		return errors.New("an error message has data")
	}
	return sameError(m.Err, c, true)
}

func sameError(got *msl.RemoteError, c msltest.Case, texts bool) error {
	timestamp := int64(-1)
	c.Into("timestamp", &timestamp)
	switch {
	case got.MessageID != c.Int("message_id"), got.Timestamp != timestamp,
		int64(got.Response) != c.Int("error_code"), int64(got.InternalCode) != c.Int("internal_code"),
		got.Entity.Scheme != c.String("entity_auth_scheme"), got.Entity.Identity() != c.String("entity_identity"):
		return fmt.Errorf("got %+v", *got)
	case texts && (got.Text != c.String("error_message") || got.UserText != c.String("user_message")):
		return fmt.Errorf("texts %q, %q", got.Text, got.UserText)
	}
	return nil
}

func responseVectors(t *testing.T) {
	msltest.Vectors(t, "responses.json", map[string]func(msltest.Case) error{
		"respond": func(c msltest.Case) error { return checkResponse(t, c) },
	})
}

// checkResponse has the request answered and reads the answer as the reference's client would have.
func checkResponse(t testing.TB, c msltest.Case) error {
	ctx := context.Background()
	cfg := vectorConfig()
	cfg.Capabilities = &msl.Capabilities{Compression: []string{"GZIP", "LZW"}, Languages: []string{"en-US", "fr"}, Formats: []string{"JSON"}}
	o := server(t, cfg)
	m, err := o.Open(ctx, bytes.NewReader(c.Bytes("request")))
	if err != nil {
		return err
	}
	defer m.Close()
	var out bytes.Buffer
	h, token, err := msl.Respond(ctx, cfg, o.Tokens.(msl.ServerKeys), m, &out, nil)
	if done, differs := refused(c, err); done {
		return differs
	}
	var caps *capabilities
	c.Into("capabilities", &caps)
	var issued *wantMasterToken
	c.Into("issued", &issued)
	var user *wantUserIDToken
	c.Into("user_id_token", &user)
	var tokens []wantServiceToken
	c.Into("service_tokens", &tokens)
	if h.MessageID != c.Int("message_id") || h.Renewable != c.Bool("renewable") {
		return fmt.Errorf("header %+v", h)
	}
	if sequence := int64(-1); true {
		c.Into("header_master_token_sequence_number", &sequence)
		if token == nil && sequence >= 0 || token != nil && token.SequenceNumber != sequence {
			return fmt.Errorf("sent under %+v", token)
		}
	}
	if (h.KeyResponse == nil) != (issued == nil) {
		return fmt.Errorf("issued %+v, want %+v", h.KeyResponse, issued)
	}
	anySerial := issued != nil && m.MasterToken == nil
	if issued != nil {
		got := *h.KeyResponse.MasterToken
		if anySerial { // serial and first sequence numbers of new tokens are each issuer's own choice
			got.SerialNumber, got.SequenceNumber = issued.SerialNumber, issued.SequenceNumber
		}
		if err := sameMasterToken(&got, issued); err != nil {
			return err
		}
		if h.KeyResponse.Scheme != c.String("issued_scheme") {
			return fmt.Errorf("issued with %s", h.KeyResponse.Scheme)
		}
		if user != nil && anySerial {
			user.MTSerialNumber = h.KeyResponse.MasterToken.SerialNumber
		}
	}
	fresh := h.UserIDToken != nil && m.UserIDToken == nil
	if err := errors.Join(sameCapabilities(h.Capabilities, caps), sameUserIDToken(h.UserIDToken, user, fresh), sameServiceTokens(h.ServiceTokens, tokens)); err != nil {
		return err
	}
	return nil
}
