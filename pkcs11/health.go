// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"errors"

	"github.com/mslkeep/mslkeep/providers"
)

// Health uses every version of every key once, and says what is wrong with the first that fails. Keys that the
// provider would not open are passed over: the token may have others for other programs.
func (p *Provider) Health(ctx context.Context) error {
	if _, err := p.Random(ctx, 16); err != nil {
		return err
	}
	infos, err := p.Keys(ctx)
	if err != nil {
		return err
	}
	for _, info := range infos {
		k, err := p.Open(ctx, info.Name, info.Version)
		if errors.Is(err, providers.Denied) || errors.Is(err, providers.NotSupported) || errors.Is(err, providers.NoSuchKey) {
			continue
		}
		if err == nil {
			err = try(ctx, k)
		}
		if errors.Is(err, providers.NoSuchKey) { // destroyed since it was listed
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// try uses a key once. Keys that only undo things are not tried: there is nothing to undo.
func try(ctx context.Context, k providers.Key) (err error) {
	switch k := k.(type) {
	case *cipherKey:
		iv := make([]byte, 16)
		if k.mechanisms[0] == providers.AESGCM {
			return nil // a random nonce spent on each check would come to an end
		}
		_, err = k.Encrypt(ctx, k.mechanisms[0], iv, nil, nil)
	case *macKey:
		_, err = k.MAC(ctx, nil)
	case *wrapKey:
		_, err = k.Wrap(ctx, make([]byte, 16))
	case *rsaSigner:
		_, err = k.Sign(ctx, providers.RSAPKCS1, nil)
	case *rsaBoth:
		_, err = k.Sign(ctx, providers.RSAPKCS1, nil)
	case *ecSigner:
		_, err = k.Sign(ctx, providers.ECDSAP256, nil)
	case *ecBoth:
		_, err = k.Sign(ctx, providers.ECDSAP256, nil)
	}
	return err
}
