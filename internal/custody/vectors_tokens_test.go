// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// parseToken takes a token out of its container, which is otherwise package msl's.
func parseToken(encoded []byte) (t wire.Token, err error) {
	refused := malformed(mslParseError, "parsing a token")
	o, err := mslenc.Parse(encoded)
	if err != nil {
		return t, refused
	}
	if t.Data, err = o.Binary("tokendata"); err != nil {
		return t, refused
	}
	if t.Signature, err = o.Binary("signature"); err != nil {
		return t, refused
	}
	return t, nil
}

func sameObject(ours []byte, c msltest.Case, name string) error {
	theirs := c.Bytes(name)
	if (ours == nil) != (theirs == nil) {
		return fmt.Errorf("%s: %s instead of %s", name, ours, theirs)
	}
	if ours == nil {
		return nil
	}
	return sameJSON(ours, theirs)
}

func tokenVectors(t *testing.T) {
	issuer := newAgent(t, nil)
	device := newAgent(t, func(c *Config) { c.TokenKeys = "" })
	msltest.Vectors(t, "mastertokens.json", map[string]func(msltest.Case) error{
		"issue":        func(c msltest.Case) error { return checkMasterIssue(issuer, c) },
		"parse":        func(c msltest.Case) error { return checkMasterParse(issuer, c) },
		"parse-client": func(c msltest.Case) error { return checkMasterParse(device, c) },
		"newer":        nil, // package msl
		"times":        nil,
	})
	msltest.Vectors(t, "useridtokens.json", map[string]func(msltest.Case) error{
		"issue":        func(c msltest.Case) error { return checkUserIssue(issuer, c) },
		"parse":        func(c msltest.Case) error { return checkUserParse(issuer, c) },
		"parse-client": func(c msltest.Case) error { return checkUserParse(device, c) },
	})
	msltest.Vectors(t, "servicetokens.json", map[string]func(msltest.Case) error{
		"issue":  func(c msltest.Case) error { return checkServiceIssue(issuer, c) },
		"parse":  func(c msltest.Case) error { return checkServiceParse(issuer, c) },
		"choose": nil, // package msl
	})
}

func checkMasterParse(a *Agent, c msltest.Case) error {
	token, err := parseToken(c.Bytes("token"))
	if err != nil {
		return compare(c, err)
	}
	s, ok, err := a.openMasterToken(context.Background(), token)
	if err != nil {
		return compare(c, err)
	}
	// What package msl reads of any token. It is read here too, so that the whole case is judged.
	claims, err := parseMasterClaims(token.Data)
	if err != nil || c.Refused() != nil {
		return compare(c, err)
	}
	if ok != c.Bool("verified") || claims.renewalWindow != c.Int("renewal_window") || claims.expiration != c.Int("expiration") ||
		claims.sequenceNumber != c.Int("sequence_number") || claims.serialNumber != c.Int("serial_number") {
		return fmt.Errorf("verified %v, claims %+v", ok, claims)
	}
	if !ok {
		return nil
	}
	defer s.wipe()
	if s.identity != c.String("identity") || s.keys.algorithm != c.String("signature_algorithm") ||
		!bytes.Equal(secret.Reveal(s.keys.enc), c.Hex("encryption_key")) || !bytes.Equal(secret.Reveal(s.keys.mac), c.Hex("signature_key")) {
		return errors.New("another session")
	}
	return sameObject(s.issuerData, c, "issuer_data")
}

// checkMasterIssue makes the token again. What is random in the reference's token is taken from it.
func checkMasterIssue(a *Agent, c msltest.Case) error {
	ctx := context.Background()
	keys := &sessionKeys{enc: secret.Take(c.Hex("encryption_key")), mac: secret.Take(c.Hex("signature_key")), algorithm: c.String("signature_algorithm")}
	if !keys.known() || c.Has("encryption_algorithm") && c.String("encryption_algorithm") != algorithmAES {
		return compare(c, unverified(mslUnidentifiedAlgorithm, "")) // cannot be made: session keys come from key exchange
	}
	s, err := newSession(keys, c.String("identity"), c.Int("sequence_number"))
	if err != nil {
		return compare(c, err)
	}
	s.serialNumber, s.issuerData = c.Int("serial_number"), c.Bytes("issuer_data")
	ours, err := a.issueMasterToken(ctx, s, c.Int("renewal_window"), c.Int("expiration"))
	if err != nil || c.Refused() != nil {
		return compare(c, err)
	}
	inner := sessionClaims{identity: s.identity, issuerData: s.issuerData, keys: keys}
	if err := sameJSON(inner.encode(), c.Bytes("sessiondata")); err != nil {
		return err
	}
	claims := masterClaims{c.Int("renewal_window"), c.Int("expiration"), c.Int("sequence_number"), c.Int("serial_number"), c.Bytes("sessiondata_envelope")}
	if err := sameJSON(claims.encode(), c.Bytes("tokendata")); err != nil {
		return err
	}
	if err := checkSignature(ctx, a, "tokens", c); err != nil {
		return err
	}
	for _, token := range []wire.Token{ours, {Data: c.Bytes("tokendata"), Signature: c.Bytes("signature")}} {
		back, ok, err := a.openMasterToken(ctx, token)
		if err != nil || !ok {
			return fmt.Errorf("opening: %v %w", ok, err)
		}
		if back.identity != s.identity || !back.keys.enc.Equal(keys.enc) || !back.keys.mac.Equal(keys.mac) || back.serialNumber != s.serialNumber {
			return errors.New("another session read back")
		}
	}
	return nil
}

// checkSignature signs the reference's token data.
func checkSignature(ctx context.Context, a *Agent, keys string, c msltest.Case) error {
	set, err := a.roleKeys(ctx, keys)
	if err != nil {
		return err
	}
	signature, err := set.newest().sign(ctx, nil, c.Bytes("tokendata"))
	return equal(c, "signature", signature, err)
}

func checkUserParse(a *Agent, c msltest.Case) error {
	token, err := parseToken(c.Bytes("token"))
	if err != nil {
		return compare(c, err)
	}
	u, ok, err := a.openUserIDToken(context.Background(), token)
	if err != nil {
		return compare(c, err)
	}
	// What package msl and the application judge, so that the whole case is judged.
	claims, err := parseUserClaims(token.Data)
	switch {
	case err != nil:
	case ok && !strings.HasPrefix(u.identity, "user"):
		err = unverified(mslUserIdentityInvalid, "")
	case !c.Has("master_token_serial") || claims.masterSerialNumber != c.Int("master_token_serial"):
		err = unverified(2000, "")
	}
	if err != nil || c.Refused() != nil {
		return compare(c, err)
	}
	if ok != c.Bool("verified") || claims.renewalWindow != c.Int("renewal_window") || claims.expiration != c.Int("expiration") ||
		claims.masterSerialNumber != c.Int("mt_serial_number") || claims.serialNumber != c.Int("serial_number") || u.identity != c.String("user") {
		return fmt.Errorf("verified %v, claims %+v, user %+v", ok, claims, u)
	}
	return sameObject(u.issuerData, c, "issuer_data")
}

func checkUserIssue(a *Agent, c msltest.Case) error {
	ctx := context.Background()
	u := user{c.String("user"), c.Bytes("issuer_data")}
	claims := userClaims{c.Int("renewal_window"), c.Int("expiration"), c.Int("master_token_serial"), c.Int("serial_number"), nil}
	if !c.Has("master_token_serial") {
		claims.masterSerialNumber = -1
	}
	ours, err := a.issueUserIDToken(ctx, claims, u)
	if err != nil || c.Refused() != nil {
		return compare(c, err)
	}
	if err := sameJSON(u.encode(), c.Bytes("userdata")); err != nil {
		return err
	}
	claims.userData = c.Bytes("userdata_envelope")
	if err := sameJSON(claims.encode(), c.Bytes("tokendata")); err != nil {
		return err
	}
	if err := checkSignature(ctx, a, "tokens", c); err != nil {
		return err
	}
	for _, token := range []wire.Token{ours, {Data: c.Bytes("tokendata"), Signature: c.Bytes("signature")}} {
		if back, ok, err := a.openUserIDToken(ctx, token); err != nil || !ok || back.identity != u.identity {
			return fmt.Errorf("opening: %v %w", ok, err)
		}
	}
	return nil
}

// serviceKeyName returns how the agent names the vectors' contexts.
func serviceKeyName(c msltest.Case) string {
	if !c.Has("context") {
		return "none"
	}
	return c.String("context")
}

func checkServiceParse(a *Agent, c msltest.Case) error {
	token, err := parseToken(c.Bytes("token"))
	if err != nil {
		return compare(c, err)
	}
	data, ok, err := a.openServiceToken(context.Background(), serviceKeyName(c), token)
	if codeOf(err) == wire.NoSuchKey && !c.Has("context") {
		err = nil // no context at all
	}
	if err != nil {
		return compare(c, err)
	}
	claims, err := parseServiceClaims(token.Data)
	switch { // as for user ID tokens
	case err != nil:
	case claims.masterSerial != -1 && (!c.Has("master_token_serial") || claims.masterSerial != c.Int("master_token_serial")):
		err = unverified(3000, "")
	case claims.userSerial != -1 && (!c.Has("user_id_token_serial") || claims.userSerial != c.Int("user_id_token_serial")):
		err = unverified(3001, "")
	case ok && claims.compression != "" && len(data) > 0 && c.Refused() != nil:
		return nil // it opens, and what it was compressed with is undone in package msl
	}
	if err != nil || c.Refused() != nil {
		return compare(c, err)
	}
	serial := func(name string) int64 {
		if !c.Has(name) {
			return -1
		}
		return c.Int(name)
	}
	if ok != c.Bool("verified") || claims.name != c.String("service_name") || claims.encrypted != c.Bool("encrypted") ||
		claims.masterSerial != serial("mt_serial_number") || claims.userSerial != serial("uit_serial_number") || claims.compression != c.String("compression") {
		return fmt.Errorf("verified %v, claims %+v", ok, claims)
	}
	if ok && claims.compression == "" && !bytes.Equal(data, c.Bytes("data")) {
		return errors.New("other data")
	}
	return nil
}

func checkServiceIssue(a *Agent, c msltest.Case) error {
	ctx := context.Background()
	serial := func(name string) int64 {
		if !c.Has(name) {
			return -1
		}
		return c.Int(name)
	}
	claims := serviceClaims{name: c.String("service_name"), masterSerial: serial("master_token_serial"), userSerial: serial("user_id_token_serial"),
		encrypted: c.Bool("encrypt"), compression: c.String("compression"), serviceData: c.Bytes("data")}
	ours, err := a.sealServiceToken(ctx, serviceKeyName(c), claims)
	if err != nil || c.Refused() != nil {
		return compare(c, err)
	}
	theirs, err := parseServiceClaims(c.Bytes("tokendata"))
	if err != nil {
		return err
	}
	compressed := claims.compression != ""
	if data := theirs.serviceData; !compressed && !claims.encrypted && !bytes.Equal(data, claims.serviceData) {
		return errors.New("other data")
	}
	claims.serviceData = theirs.serviceData
	if err := sameJSON(claims.encode(), c.Bytes("tokendata")); err != nil {
		return err
	}
	name, err := a.serviceKeys(serviceKeyName(c))
	if err != nil {
		return err
	}
	if err := checkSignature(ctx, a, name, c); err != nil {
		return err
	}
	for _, token := range []wire.Token{ours, {Data: c.Bytes("tokendata"), Signature: c.Bytes("signature")}} {
		data, ok, err := a.openServiceToken(ctx, serviceKeyName(c), token)
		if err != nil || !ok {
			return fmt.Errorf("opening: %v %w", ok, err)
		}
		if !compressed && !bytes.Equal(data, c.Bytes("data")) {
			return errors.New("other data read back")
		}
	}
	return nil
}
