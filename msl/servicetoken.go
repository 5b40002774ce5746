// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// A ServiceToken is application data that one side gives to the other to be carried (§3.4). It must not be
// changed.
type ServiceToken struct {
	Token
	ServiceTokenClaims
	Verified bool   // opened with keys of this side
	Value    []byte // the application data, if Verified
	deleted  bool
}

// ParseServiceToken parses an encoded service token. It neither opens it nor checks what it is bound to.
func ParseServiceToken(encoded []byte) (*ServiceToken, error) {
	return parseServiceToken(parseFields(encoded, "service token", MSLParseError))
}

func parseServiceToken(f fields) (*ServiceToken, error) {
	t := &ServiceToken{}
	t.Token = f.token(ServiceTokenTokenDataMissing)
	if f.err != nil {
		return nil, f.err
	}
	return t, t.parse()
}

func (t *ServiceToken) parse() error {
	f := parseFields(t.Data, "service token", MSLParseError)
	t.Name = f.text("name")
	t.MasterTokenSerialNumber = f.optionalID("mtserialnumber", ServiceTokenMasterTokenSerialNumberOutOfRange)
	t.UserIDTokenSerialNumber = f.optionalID("uitserialnumber", ServiceTokenUserIDTokenSerialNumberOutOfRange)
	t.Encrypted = f.boolean("encrypted")
	t.Compression = f.compression("compressionalgo")
	t.deleted = len(f.binary("servicedata")) == 0
	return f.err
}

// Deleted reports whether the token tells its receiver to forget the token of the same name and
// binding.
func (t *ServiceToken) Deleted() bool { return t.deleted }

// BoundTo reports whether the token may stand beside these tokens, of which either may be nil: it is
// unbound, or bound to them.
func (t *ServiceToken) BoundTo(m *MasterToken, u *UserIDToken) bool {
	return t.checkBinding(m, u) == nil
}

func (t *ServiceToken) checkBinding(m *MasterToken, u *UserIDToken) error {
	if t.MasterTokenSerialNumber >= 0 && (m == nil || m.SerialNumber != t.MasterTokenSerialNumber) {
		return fail(ServiceTokenMasterTokenMismatch, "service token", nil)
	}
	if t.UserIDTokenSerialNumber >= 0 && (u == nil || u.SerialNumber != t.UserIDTokenSerialNumber) {
		return fail(ServiceTokenUserIDTokenMismatch, "service token", nil)
	}
	return nil
}

// same reports whether two tokens have the same name and are bound to the same tokens (§3.4).
func (t *ServiceToken) same(o *ServiceToken) bool {
	return t.Name == o.Name && t.MasterTokenSerialNumber == o.MasterTokenSerialNumber && t.UserIDTokenSerialNumber == o.UserIDTokenSerialNumber
}

// openServiceToken opens the data of a token that this side has keys for. A token that does not verify is
// carried unopened; one whose verified data cannot be read is an error.
func openServiceToken(ctx context.Context, cfg *Config, keys ServiceTokenKeys, t *ServiceToken) error {
	name, ok := cfg.serviceKeys(t.Name)
	if !ok || keys == nil || t.deleted {
		return nil
	}
	data, ok, err := keys.OpenServiceToken(ctx, name, t.Token)
	if err != nil {
		return custodyError(err, ServiceTokenServiceDataInvalid, "service token")
	}
	if !ok {
		return nil
	}
	if t.Compression != "" && len(data) > 0 {
		if data, err = uncompress(t.Compression, data, cfg.limits().Inflate); err != nil {
			return err
		}
	}
	t.Verified, t.Value = true, data
	return nil
}

// sealServiceToken makes a service token with the keys in custody that cfg names for it. m and u, which
// may be nil, are the tokens that it is bound to. The value is compressed with an algorithm, if that is
// not empty and makes it shorter. An empty value makes a token that deletes.
func sealServiceToken(ctx context.Context, cfg *Config, keys ServiceTokenKeys, name string, m *MasterToken, u *UserIDToken, encrypt bool, compression string, value []byte) (*ServiceToken, error) {
	if u != nil && !u.BoundTo(m) {
		return nil, fail(UserIDTokenMasterTokenMismatch, "service token", nil)
	}
	if len(value) == 0 {
		return deletedServiceToken(name, m, u), nil
	}
	keysName, ok := cfg.serviceKeys(name)
	if !ok {
		return nil, fail(InternalException, "service token", notSupported{"service token without keys", EncryptNotSupported})
	}
	claims := serviceClaims(name, m, u)
	claims.Encrypted = encrypt
	data := value
	if c := compress(compression, value); c != nil {
		claims.Compression, data = compression, c
	}
	sealed, err := keys.SealServiceToken(ctx, keysName, &claims, data)
	if err != nil {
		return nil, custodyError(err, InternalException, "service token")
	}
	return &ServiceToken{Token: sealed, ServiceTokenClaims: claims, Verified: true, Value: value}, nil
}

func serviceClaims(name string, m *MasterToken, u *UserIDToken) ServiceTokenClaims {
	c := ServiceTokenClaims{Name: mslenc.NFC(name), MasterTokenSerialNumber: -1, UserIDTokenSerialNumber: -1}
	if m != nil {
		c.MasterTokenSerialNumber = m.SerialNumber
	}
	if u != nil {
		c.UserIDTokenSerialNumber = u.SerialNumber
	}
	return c
}

// deletedServiceToken makes the token that tells a receiver to forget another: empty and unsigned.
func deletedServiceToken(name string, m *MasterToken, u *UserIDToken) *ServiceToken {
	c := serviceClaims(name, m, u)
	var b mslenc.Builder
	b.String("name", c.Name)
	if m != nil {
		b.Int("mtserialnumber", c.MasterTokenSerialNumber)
	}
	if u != nil {
		b.Int("uitserialnumber", c.UserIDTokenSerialNumber)
	}
	b.Bool("encrypted", false)
	b.Binary("servicedata", nil)
	return &ServiceToken{Token: Token{Data: b.Bytes(), Signature: []byte{}}, ServiceTokenClaims: c, deleted: true}
}
