// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// The types below are how the vectors describe what a reader gets.

type wantMasterToken struct {
	RenewalWindow  int64 `json:"renewal_window"`
	Expiration     int64
	SequenceNumber int64 `json:"sequence_number"`
	SerialNumber   int64 `json:"serial_number"`
	Identity       *string
	IssuerData     []byte `json:"issuer_data"`
}

type wantUserIDToken struct {
	Verified       bool
	RenewalWindow  int64 `json:"renewal_window"`
	Expiration     int64
	MTSerialNumber int64 `json:"mt_serial_number"`
	SerialNumber   int64 `json:"serial_number"`
	User           *string
}

type wantServiceToken struct {
	Name            string `json:"service_name"`
	Verified        bool
	Decrypted       bool
	Encrypted       bool
	Deleted         bool
	MTSerialNumber  *int64 `json:"mt_serial_number"`
	UITSerialNumber *int64 `json:"uit_serial_number"`
	Compression     *string
	Data            []byte
}

type wantHeader struct {
	MessageID       int64  `json:"message_id"`
	Timestamp       *int64 // seconds
	Renewable       bool
	Handshake       bool
	NonReplayableID *int64 `json:"non_replayable_id"`
	Encrypting      bool
	Capabilities    *capabilities
	EntityScheme    *string          `json:"entity_auth_scheme"`
	EntityIdentity  *string          `json:"entity_identity"`
	MasterToken     *wantMasterToken `json:"master_token"`
	KeyRequests     []string         `json:"key_requests"`
	KeyResponse     *struct {
		Scheme      string
		MasterToken *wantMasterToken `json:"master_token"`
	} `json:"key_response"`
	UserIDToken   *wantUserIDToken   `json:"user_id_token"`
	ServiceTokens []wantServiceToken `json:"service_tokens"`

	PeerMasterToken   *wantMasterToken   `json:"peer_master_token"`
	PeerUserIDToken   *wantUserIDToken   `json:"peer_user_id_token"`
	PeerServiceTokens []wantServiceToken `json:"peer_service_tokens"`
}

func orNone(p *int64) int64 {
	if p == nil {
		return -1
	}
	return *p
}

func deref(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

func sameMasterToken(got *msl.MasterToken, want *wantMasterToken) error {
	if got == nil || want == nil {
		if got != nil || want != nil {
			return fmt.Errorf("master token: got %v, want %v", got, want)
		}
		return nil
	}
	if got.RenewalWindow != want.RenewalWindow || got.Expiration != want.Expiration ||
		got.SequenceNumber != want.SequenceNumber || got.SerialNumber != want.SerialNumber {
		return fmt.Errorf("master token: got %+v, want %+v", got, want)
	}
	return nil
}

func sameUserIDToken(got *msl.UserIDToken, want *wantUserIDToken, anySerial bool) error {
	if got == nil || want == nil {
		if got != nil || want != nil {
			return fmt.Errorf("user ID token: got %v, want %v", got, want)
		}
		return nil
	}
	if got.Verified != want.Verified || got.RenewalWindow != want.RenewalWindow || got.Expiration != want.Expiration ||
		got.MasterTokenSerialNumber != want.MTSerialNumber || got.SerialNumber != want.SerialNumber && !anySerial || got.User != deref(want.User) {
		return fmt.Errorf("user ID token: got %+v, want %+v", got, want)
	}
	return nil
}

func sameSchemes(got []msl.KeyRequest, want []string) bool {
	var schemes []string
	for _, r := range got {
		schemes = append(schemes, r.Scheme)
	}
	slices.Sort(schemes)
	return slices.Equal(schemes, slices.Sorted(slices.Values(want)))
}

// sameServiceTokens compares without regard to order: the reference keeps a set, in which tokens of the
// same name and binding are one.
func sameServiceTokens(got []*msl.ServiceToken, want []wantServiceToken) error {
	for _, t := range got {
		i := slices.IndexFunc(want, func(w wantServiceToken) bool {
			return w.Name == t.Name && orNone(w.MTSerialNumber) == t.MasterTokenSerialNumber && orNone(w.UITSerialNumber) == t.UserIDTokenSerialNumber
		})
		if i < 0 {
			return fmt.Errorf("service token %q is too much", t.Name)
		}
		w := want[i]
		if t.Encrypted != w.Encrypted || t.Compression != deref(w.Compression) || t.Deleted() != w.Deleted ||
			!t.Deleted() && t.Verified != w.Verified || w.Verified && !bytes.Equal(t.Value, w.Data) {
			return fmt.Errorf("service token %q: got %+v, want %+v", t.Name, t, w)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d service tokens, want %d", len(got), len(want))
	}
	return nil
}

// messageVectors opens the messages that the reference wrote.
func messageVectors(t *testing.T) {
	groups := map[string]func(msltest.Case) error{}
	for _, g := range []string{"entity", "master-token", "key-request", "user-auth", "service-tokens", "payloads", "capabilities", "message-id", "handshake", "key-response", "peer-to-peer"} {
		groups[g] = func(c msltest.Case) error { return checkMessage(t, c) }
	}
	msltest.Vectors(t, "messages.json", groups)
}

// vectorOpener returns the receiver that the case names.
func vectorOpener(t testing.TB, c msltest.Case) *msl.Opener {
	o := server(t, vectorConfig())
	o.Config.PeerToPeer = c.Bool("peer_to_peer")
	if c.String("receiver") == "client" {
		o.Tokens = nil
		o.Config.Entity, o.Config.Policy = msl.PSK("psk-client"), nil
		var stored msl.CryptoContext
		if c.Bool("stored_session") {
			stored = inproc.Session(t)
		}
		var known *msl.MasterToken
		o.Session = func(m *msl.MasterToken) msl.CryptoContext {
			if known == nil {
				known = m
			}
			if !known.Same(m) {
				return nil
			}
			return stored
		}
		if c.Has("request") {
			var request struct{ Encoded []byte }
			c.Into("request", &request)
			r, err := msl.ParseKeyRequest(request.Encoded)
			if err != nil {
				t.Fatal(err)
			}
			keys := inproc.KeySet{EncryptionKey: c.Hex("new_encryption_key"), HMACKey: c.Hex("new_hmac_key")}
			if len(keys.EncryptionKey) > 0 {
				o.Requests = map[string]msl.PendingExchange{r.Scheme: knownExchange{inproc.Context(t, keys)}}
			}
		}
	}
	return o
}

// knownExchange gives the session keys that a case says its exchange made: the private keys of the
// exchanges are the reference's, and agents make their own.
type knownExchange struct{ session msl.CryptoContext }

func (knownExchange) KeyData() []byte { return nil }
func (knownExchange) Discard()        {}
func (k knownExchange) Finish(context.Context, []byte, msl.Token, string, int64) (msl.CryptoContext, error) {
	return k.session, nil
}

func checkMessage(t testing.TB, c msltest.Case) error {
	m, err := vectorOpener(t, c).Open(context.Background(), bytes.NewReader(c.Bytes("message")))
	if done, differs := refused(c, err); done {
		return differs
	}
	defer m.Close()
	var want wantHeader
	c.Into("header", &want)
	if err := sameHeader(m, &want); err != nil {
		return err
	}
	switch {
	case m.Session != nil && m.Identity() != c.String("identity") || m.MasterToken == nil && m.Identity() != c.String("identity"):
		return fmt.Errorf("identity %q", m.Identity())
	case m.User != c.String("user"):
		return fmt.Errorf("user %q", m.User)
	case m.Encrypted != c.Bool("encrypts_payloads"), m.IntegrityProtected != c.Bool("protects_payload_integrity"):
		return fmt.Errorf("protection: %v, %v", m.Encrypted, m.IntegrityProtected)
	case m.Handshake() != c.Bool("is_handshake"):
		return fmt.Errorf("handshake: %v", m.Handshake())
	}
	if c.Has("data_length") {
		got, err := io.ReadAll(m)
		if err != nil {
			return err
		}
		if len(got) != int(c.Int("data_length")) {
			return fmt.Errorf("%d bytes of data", len(got))
		}
		return sameData(got, c)
	}
	return nil
}

func sameHeader(m *msl.Message, want *wantHeader) error {
	switch {
	case m.ID != want.MessageID:
		return fmt.Errorf("message id %d", m.ID)
	case m.Timestamp != orNone(want.Timestamp):
		return fmt.Errorf("timestamp %d", m.Timestamp)
	case m.Renewable != want.Renewable:
		return fmt.Errorf("renewable %v", m.Renewable)
	case m.NonReplayableID != orNone(want.NonReplayableID):
		return fmt.Errorf("non-replayable id %d", m.NonReplayableID)
	case m.Entity.Scheme != deref(want.EntityScheme), m.Entity.Identity() != deref(want.EntityIdentity):
		return fmt.Errorf("entity %s %q", m.Entity.Scheme, m.Entity.Identity())
	case !sameSchemes(m.KeyRequests, want.KeyRequests):
		return fmt.Errorf("%d key requests", len(m.KeyRequests))
	case (m.KeyResponse == nil) != (want.KeyResponse == nil):
		return errors.New("key response")
	}
	if m.KeyResponse != nil {
		if m.KeyResponse.Scheme != want.KeyResponse.Scheme {
			return fmt.Errorf("key response %s", m.KeyResponse.Scheme)
		}
		if err := sameMasterToken(m.KeyResponse.MasterToken, want.KeyResponse.MasterToken); err != nil {
			return err
		}
	}
	if u := want.PeerUserIDToken; u != nil {
		// It is the peer's business whom its tokens name, so they are not opened here, although the vectors' keys would do.
		u.Verified, u.User = false, nil
	}
	return errors.Join(
		sameCapabilities(m.Capabilities, want.Capabilities),
		sameMasterToken(m.MasterToken, want.MasterToken),
		sameUserIDToken(m.UserIDToken, want.UserIDToken, false),
		sameServiceTokens(m.ServiceTokens, want.ServiceTokens),
		sameMasterToken(m.PeerMasterToken, want.PeerMasterToken),
		sameUserIDToken(m.PeerUserIDToken, want.PeerUserIDToken, false),
		sameServiceTokens(m.PeerServiceTokens, want.PeerServiceTokens),
	)
}

// refusedVectors opens messages of which something is wrong, or nearly so.
func refusedVectors(t *testing.T) {
	groups := map[string]func(msltest.Case) error{}
	for _, g := range []string{"header", "outer", "entity", "token-life", "payload", "client", "replay", "peer-to-peer"} {
		groups[g] = func(c msltest.Case) error { return checkRefused(t, c) }
	}
	msltest.Vectors(t, "messages-refused.json", groups)
}

func checkRefused(t testing.TB, c msltest.Case) error {
	ctx := context.Background()
	o := server(t, vectorConfig())
	o.Config.PeerToPeer = c.Bool("peer_to_peer")
	if c.String("receiver") == "client" {
		o.Tokens, o.Config.Policy = nil, nil
		o.Config.Entity = msl.PSK("psk-client")
		o.Session = func(*msl.MasterToken) msl.CryptoContext { return nil }
	}
	if c.Name == "key-response-unregistered-scheme" {
		o.Config.KeyExchanges = []msl.KeyExchange{}
	}
	if c.Has("after") {
		m, err := o.Open(ctx, bytes.NewReader(c.Bytes("after")))
		if err != nil {
			return fmt.Errorf("the message before: %w", err)
		}
		m.Close()
	}
	m, err := o.Open(ctx, bytes.NewReader(c.Bytes("message")))
	var data []byte
	if err == nil {
		defer m.Close()
		data, err = io.ReadAll(m)
		if err != nil && c.String("stage") == "header" {
			return fmt.Errorf("only the payload is refused: %w", err)
		}
	}
	if done, differs := refused(c, err); done {
		if differs == nil && c.String("stage") == "header" {
			return sameMessageID(c, err)
		}
		return differs
	}
	return sameAccepted(m, data, c)
}

func sameMessageID(c msltest.Case, err error) error {
	want := orNone(c.Refused().MessageID)
	if e, ok := errors.AsType[*msl.Error](err); !ok || e.MessageID != want {
		return fmt.Errorf("the error's message id is not %d: %v", want, err)
	}
	return nil
}

func sameAccepted(m *msl.Message, data []byte, c msltest.Case) error {
	var caps *capabilities
	c.Into("capabilities", &caps)
	var tokens []wantServiceToken
	c.Into("service_tokens", &tokens)
	switch {
	case m.ID != c.Int("message_id"):
		return fmt.Errorf("message id %d", m.ID)
	case m.User != c.String("user"):
		return fmt.Errorf("user %q", m.User)
	case m.Handshake() != c.Bool("is_handshake"):
		return fmt.Errorf("handshake: %v", m.Handshake())
	case !bytes.Equal(data, c.Bytes("data")):
		return fmt.Errorf("data %q", data)
	}
	return errors.Join(sameCapabilities(m.Capabilities, caps), sameServiceTokens(m.ServiceTokens, tokens))
}
