// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// serviceClaims is a service token (§3.4).
type serviceClaims struct {
	name                     string
	masterSerial, userSerial int64 // -1: not bound
	encrypted                bool
	compression              string // "": none
	serviceData              []byte // an envelope if encrypted and not empty
}

// parseServiceClaims reads token data (§3.4).
func parseServiceClaims(data []byte) (c serviceClaims, err error) {
	if len(data) == 0 {
		return c, unverified(mslServiceDataMissing, "reading tokendata")
	}
	refused := unverified(mslParseError, "parsing tokendata")
	o, err := mslenc.Parse(data)
	if err != nil {
		return c, refused
	}
	if c.name, err = o.String("name"); err != nil {
		return c, refused
	}
	c.masterSerial, c.userSerial = -1, -1
	if o.Has("mtserialnumber") {
		if c.masterSerial, err = o.Int("mtserialnumber"); err != nil {
			return c, refused
		}
		if !inRange(c.masterSerial) {
			return c, unverified(mslServiceMasterRange, "reading mtserialnumber")
		}
	}
	if o.Has("uitserialnumber") {
		if c.userSerial, err = o.Int("uitserialnumber"); err != nil {
			return c, refused
		}
		if !inRange(c.userSerial) {
			return c, unverified(mslServiceUserRange, "reading uitserialnumber")
		}
	}
	if c.encrypted, err = o.Bool("encrypted"); err != nil {
		return c, refused
	}
	if o.Has("compressionalgo") {
		if c.compression, err = o.String("compressionalgo"); err != nil {
			return c, refused
		}
		if !knownCompression(c.compression) {
			return c, unverified(mslUnidentifiedCompression, "reading compressionalgo")
		}
	}
	if c.serviceData, err = o.Binary("servicedata"); err != nil {
		return c, refused
	}
	return c, nil
}

func knownCompression(name string) bool { return name == "GZIP" || name == "LZW" }

func (c *serviceClaims) encode() []byte {
	var b mslenc.Builder
	b.String("name", c.name)
	if c.masterSerial != -1 {
		b.Int("mtserialnumber", c.masterSerial)
	}
	if c.userSerial != -1 {
		b.Int("uitserialnumber", c.userSerial)
	}
	b.Bool("encrypted", c.encrypted)
	if c.compression != "" {
		b.String("compressionalgo", c.compression)
	}
	b.Binary("servicedata", c.serviceData)
	return b.Bytes()
}

// openServiceToken verifies a token with the keys of that name and decrypts it if it is encrypted. ok
// false without an error means that it does not verify.
func (a *Agent) openServiceToken(ctx context.Context, keys string, t wire.Token) (data []byte, ok bool, err error) {
	if len(t.Data) == 0 || len(t.Data)+len(t.Signature) > maxToken {
		return nil, false, nil
	}
	name, err := a.serviceKeys(keys)
	if err != nil {
		return nil, false, err
	}
	s, err := a.verifyRole(ctx, name, nil, t.Data, t.Signature)
	if err != nil {
		if codeOf(err) == wire.VerificationFailed {
			err = nil
		}
		return nil, false, err
	}
	claims, err := parseServiceClaims(t.Data)
	if err != nil {
		return nil, true, err
	}
	if !claims.encrypted || len(claims.serviceData) == 0 {
		return claims.serviceData, true, nil
	}
	data, err = s.decrypt(ctx, claims.serviceData)
	return data, true, err
}

// sealServiceToken makes a token of data, which c.serviceData holds in the clear.
func (a *Agent) sealServiceToken(ctx context.Context, keys string, c serviceClaims) (t wire.Token, err error) {
	switch {
	case c.masterSerial != -1 && !inRange(c.masterSerial), c.userSerial != -1 && !inRange(c.userSerial):
		return t, malformed(noNumber, "sealing with a serial number out of range")
	case c.compression != "" && !knownCompression(c.compression):
		return t, malformed(noNumber, "sealing with an unknown compression")
	}
	name, err := a.serviceKeys(keys)
	if err != nil {
		return t, err
	}
	set, err := a.roleKeys(ctx, name)
	if err != nil {
		return t, err
	}
	if c.encrypted && len(c.serviceData) > 0 {
		if c.serviceData, err = set.newest().encrypt(ctx, c.serviceData); err != nil {
			return t, err
		}
	}
	t.Data = c.encode()
	if t.Signature, err = set.newest().sign(ctx, nil, t.Data); err != nil {
		return wire.Token{}, err
	}
	return t, nil
}
