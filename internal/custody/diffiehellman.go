// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/secret"
)

// DIFFIE_HELLMAN (§7.4): session keys from an agreement over a group that both sides have configured. Nothing in
// it authenticates: the message that carries it does.

const schemeDiffieHellman = "DIFFIE_HELLMAN"

// An agreement is the keydata of a request, and of a response.
type agreement struct {
	parameters string
	public     []byte
}

func parseAgreement(o mslenc.Object) (x agreement, err error) {
	if x.parameters, err = o.String("parametersid"); err != nil {
		return x, malformed(mslParseError, "reading parametersid")
	}
	if x.public, err = o.Binary("publickey"); err != nil {
		return x, malformed(mslParseError, "reading publickey")
	}
	if len(x.public) == 0 {
		return x, malformed(mslKeyxInvalidPublicKey, "reading publickey")
	}
	return x, nil
}

func (x agreement) encode() []byte {
	var b mslenc.Builder
	b.String("parametersid", x.parameters)
	b.Binary("publickey", x.public)
	return b.Bytes()
}

func respondDiffieHellman(_ context.Context, a *Agent, _ *requester, o mslenc.Object) (*sessionKeys, []byte, error) {
	request, err := parseAgreement(o)
	if err != nil {
		return nil, nil, err
	}
	g := a.groups[request.parameters]
	if g == nil {
		return nil, nil, malformed(mslUnknownParameters, "reading parametersid")
	}
	x, y := g.keyPair()
	defer x.Wipe()
	a.cfg.KeyLog.Add("exponent", x)
	keys, err := g.agree(x, request.public)
	if err != nil {
		return nil, nil, err
	}
	return keys, agreement{request.parameters, y}.encode(), nil
}

// A pendingAgreement waits for the peer's public number.
type pendingAgreement struct {
	agreement // ours
	group     *group
	x         *secret.Bytes // nil: wiped
}

func beginDiffieHellman(_ context.Context, a *Agent, r *beginner) (pendingExchange, error) {
	g := a.groups[r.mechanism]
	if g == nil {
		return nil, unsupported(mslUnknownParameters, "beginning a key exchange with a group of that name")
	}
	x, y := g.keyPair()
	a.cfg.KeyLog.Add("exponent", x)
	return &pendingAgreement{agreement{r.mechanism, y}, g, x}, nil
}

func (p *pendingAgreement) wipe() { p.x.Wipe() }

func (p *pendingAgreement) keyData() []byte { return p.encode() }

func (p *pendingAgreement) finish(_ context.Context, o mslenc.Object) (*sessionKeys, error) {
	response, err := parseAgreement(o)
	switch {
	case err != nil:
		return nil, err
	case response.parameters != p.parameters:
		return nil, malformed(mslResponseMismatch, "comparing parametersid")
	case p.x.Len() == 0:
		return nil, unsupported(mslPrivateKeyMissing, "agreeing without an exponent")
	}
	return p.group.agree(p.x, response.public)
}
