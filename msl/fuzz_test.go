// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"io"
	"reflect"
	"testing"
	"testing/iotest"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/msl"
)

// An issuer issued nothing and knows no keys.
type noIssuer struct{}

func (noIssuer) OpenMasterToken(context.Context, msl.Token, []msl.Part) (*msl.Session, [][]byte, error) {
	return nil, nil, nil
}
func (noIssuer) OpenUserIDToken(context.Context, msl.Token) (*msl.UserClaims, error) { return nil, nil }
func (noIssuer) OpenServiceToken(context.Context, string, msl.Token) ([]byte, bool, error) {
	return nil, false, nil
}
func (noIssuer) EntityContext(context.Context, string, string, string) (msl.CryptoContext, error) {
	return nil, unavailable{}
}

func fuzzOpener() *msl.Opener {
	o := noneOpener()
	o.Config.Limits = msl.Limits{Inflate: 1 << 20}
	o.Config.EntitySchemes = vectorConfig().EntitySchemes
	o.Config.Provision = func(context.Context) (string, error) { return "provisioned", nil }
	o.Tokens, o.Services, o.Entities = noIssuer{}, nil, noIssuer{}
	return o
}

// checkOpened reads a message to its end, and looks for what must not be.
func checkOpened(t *testing.T, m *msl.Message, err error) (data []byte, failed error) {
	if err != nil {
		if code := msl.CodeOf(err); code.Name() == "" {
			t.Errorf("an error without a code: %v", err)
		}
		return nil, err
	}
	if m.ID < 0 || m.ID > mslenc.MaxLong || m.NonReplayableID > mslenc.MaxLong || m.MasterToken != nil && m.Err == nil || m.Session != nil {
		t.Errorf("accepted %+v", m)
	}
	data, failed = io.ReadAll(io.LimitReader(m, 64<<20))
	m.Close()
	return data, failed
}

// FuzzMessage opens whole messages of entities that do not authenticate, at once and byte by byte.
func FuzzMessage(f *testing.F) {
	f.Add(plainMessage(f, 5, nil, "one", "two"))
	f.Add(compressedMessage(f, "dull dull dull dull dull dull dull dull"))
	for _, c := range msltest.Cases(f, "messages.json") {
		if m := c.Bytes("message"); len(m) < 5000 && (c.Group == "entity" || c.Group == "handshake") {
			f.Add(m)
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		m, err := fuzzOpener().Open(context.Background(), bytes.NewReader(stream))
		data, failed := checkOpened(t, m, err)
		m, err = fuzzOpener().Open(context.Background(), iotest.OneByteReader(bytes.NewReader(stream)))
		again, failedAgain := checkOpened(t, m, err)
		if !bytes.Equal(data, again) || (failed == nil) != (failedAgain == nil) || failed != nil && msl.CodeOf(failed) != msl.CodeOf(failedAgain) {
			t.Errorf("at once %q, %v; byte by byte %q, %v", data, failed, again, failedAgain)
		}
	})
}

// FuzzHeader opens messages with any header data, under any outer members.
func FuzzHeader(f *testing.F) {
	for _, file := range []string{"messages.json"} {
		for _, c := range msltest.Cases(f, file) {
			if h := c.Bytes("headerdata"); len(h) < 3000 {
				f.Add([]byte(`{"scheme":"NONE","authdata":{"identity":"x"}}`), h)
			}
		}
	}
	for _, c := range msltest.Cases(f, "entityauth.json") {
		if d := c.Bytes("document"); d != nil {
			f.Add(d, []byte(`{"messageid":1,"renewable":true}`))
		}
	}
	f.Fuzz(func(t *testing.T, entity, headerData []byte) {
		var b mslenc.Builder
		b.Object("entityauthdata", entity)
		b.Binary("headerdata", headerData)
		b.Binary("signature", nil)
		stream := append(bytes.Clone(b.Bytes()), `{"payload":"e30=","signature":""}`...)
		m, err := fuzzOpener().Open(context.Background(), bytes.NewReader(stream))
		checkOpened(t, m, err)
	})
}

// FuzzErrorHeader reads error data; what is accepted comes back the same when it is written and read.
func FuzzErrorHeader(f *testing.F) {
	for _, c := range msltest.Cases(f, "errorheaders.json") {
		if d := c.Bytes("errordata"); d != nil {
			f.Add(d)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := msl.ParseErrorData(data)
		if err != nil {
			return
		}
		if e.MessageID < 0 || e.MessageID > mslenc.MaxLong || e.Response < msl.Fail || e.Response > msl.SSOTokenRejected || e.InternalCode < -1 {
			t.Errorf("accepted %+v", *e)
		}
		again, err := msl.ParseErrorData(e.EncodeForTest())
		if err != nil {
			t.Fatal(err)
		}
		if e.InternalCode == 0 { // is not written
			e.InternalCode = -1
		}
		if *again != *e {
			t.Errorf("%+v came back as %+v", *e, *again)
		}
	})
}

// FuzzTokens parses tokens of all three kinds; what is accepted travels on unchanged.
func FuzzTokens(f *testing.F) {
	for _, file := range []string{"mastertokens.json", "useridtokens.json", "servicetokens.json"} {
		for _, c := range msltest.Cases(f, file) {
			if d := c.Bytes("token"); d != nil && c.Group != "times" {
				f.Add(d)
			}
		}
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		if m, err := msl.ParseMasterToken(encoded); err == nil {
			again, err := msl.ParseMasterToken(m.Encoding())
			if err != nil || !reflect.DeepEqual(again, m) || m.Expiration < m.RenewalWindow {
				t.Errorf("%+v came back as %+v, %v", m, again, err)
			}
			if m.NewerThan(m) {
				t.Error("newer than itself")
			}
		}
		if s, err := msl.ParseServiceToken(encoded); err == nil {
			again, err := msl.ParseServiceToken(s.Encoding())
			if err != nil || !reflect.DeepEqual(again, s) {
				t.Errorf("%+v came back as %+v, %v", s, again, err)
			}
		}
		for _, serial := range []int64{0, 77} {
			m := &msl.MasterToken{SerialNumber: serial}
			if u, err := msl.ParseUserIDToken(encoded, m); err == nil {
				again, err := msl.ParseUserIDToken(u.Encoding(), m)
				if err != nil || !reflect.DeepEqual(again, u) || !u.BoundTo(m) {
					t.Errorf("%+v came back as %+v, %v", u, again, err)
				}
			}
		}
	})
}
