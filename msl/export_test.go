// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"io"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// What the tests outside the package need of it. They are outside because package agent, which many of
// them use, imports this one.

var (
	Compress       = compress
	Uncompress     = uncompress
	ParseErrorData = parseErrorData
	SealError      = sealError
	ErrClosed      = errClosed
	ErrNoPayloads  = errNoPayloads

	DistinguishedName = distinguishedName
	AttributeNames    = attributeNames
	RandomID          = randomID
)

type (
	HeaderData    = headerData
	PayloadObject = payload
)

func (c *Capabilities) EncodeForTest() []byte { return c.encode() }
func (c *Capabilities) Preferred() string     { return c.compression() }

func ParseCapabilities(encoded []byte) (*Capabilities, error) {
	o, err := mslenc.Parse(encoded)
	if err != nil {
		return nil, err
	}
	return parseCapabilities(o)
}

func ParseKeyRequest(encoded []byte) (KeyRequest, error) {
	o, err := mslenc.Parse(encoded)
	if err != nil {
		return KeyRequest{}, fail(MSLParseError, "test", err)
	}
	return parseKeyRequest(o)
}

func (r KeyRequest) EncodeForTest() []byte { return r.encode() }

func ParseKeyResponse(encoded []byte) (*KeyResponse, error) {
	f := parseFields(encoded, "test", MSLParseError)
	return parseKeyResponse(f)
}

func (r *KeyResponse) EncodeForTest() []byte { return r.encode() }

func (d *UserAuthData) EncodeForTest() []byte { return d.encode() }

func AuthenticateUser(ctx context.Context, cfg *Config, tokens TokenOpener, encoded []byte, entity string, encrypted bool, beside *UserIDToken) (string, error) {
	return authenticateUser(ctx, cfg, tokens, parseFields(encoded, "test", MSLParseError), entity, encrypted, beside)
}

func RemoteContext(ctx context.Context, cfg *Config, keys EntityKeys, encoded []byte) (CryptoContext, EntityAuthData, error) {
	d, err := cfg.ParseRemote(ctx, keys, encoded)
	if err != nil {
		return nil, d, err
	}
	c, err := remoteContext(ctx, cfg, keys, &d)
	return c, d, err
}

func OwnContext(ctx context.Context, cfg *Config, keys EntityKeys) (CryptoContext, error) {
	return ownContext(ctx, cfg, keys)
}

func SchemeFlags(name string) (encrypts, protects bool, err error) {
	s, err := findEntityScheme(name)
	if err != nil {
		return false, false, err
	}
	return s.encrypts, s.protects, nil
}

func (e *RemoteError) EncodeForTest() []byte { return e.encode() }

func (e *RemoteError) SealForTest(ctx context.Context, cfg *Config, keys EntityKeys) ([]byte, error) {
	return e.seal(ctx, cfg, keys)
}

// An Opener is an opener whose fields tests can set.
type Opener struct {
	Config           *Config
	Entities         EntityKeys
	Tokens           TokenOpener
	Services         ServiceTokenKeys
	Session          func(*MasterToken) CryptoContext
	Requests         map[string]PendingExchange // by scheme
	AnswersHandshake bool
}

func (o *Opener) Open(ctx context.Context, r io.Reader) (*Message, error) {
	return o.OpenDecoder(ctx, mslenc.NewDecoder(r, o.Config.decoderLimits()))
}

func (o *Opener) OpenDecoder(ctx context.Context, d *mslenc.Decoder) (*Message, error) {
	in := opener{
		cfg: o.Config, entities: o.Entities, tokens: o.Tokens, services: o.Services,
		session: o.Session, answersHandshake: o.AnswersHandshake,
	}
	for scheme, pending := range o.Requests {
		in.requests = append(in.requests, &pendingRequest{scheme: scheme, pending: pending})
	}
	return in.open(ctx, d)
}

// An Outgoing is an outgoing message whose fields tests can set.
type Outgoing struct {
	Header      *HeaderData
	MasterToken *MasterToken
	Entity      EntityAuthData
	Context     CryptoContext
	Payloads    CryptoContext
	ChunkSize   int
	Compression string
}

func NewMessageWriter(ctx context.Context, out io.Writer, m *Outgoing) (*MessageWriter, error) {
	return newMessageWriter(ctx, out, &outgoing{
		outer: outerHeader{entity: m.Entity, master: m.MasterToken}, header: m.Header,
		headerContext: m.Context, payloadContext: m.Payloads, chunkSize: m.ChunkSize, compression: m.Compression,
	})
}

func (w *MessageWriter) CloseHeader() error { return w.closeHeader() }
func (w *MessageWriter) Abort()             { w.abort() }

func NewHeaderData(cfg *Config, id int64) *HeaderData { return newHeaderData(cfg, cfg.now(), id) }

// Respond builds the answer to a message and writes its header, with data if there is any.
func Respond(ctx context.Context, cfg *Config, keys ServerKeys, req *Message, out io.Writer, data []byte) (*HeaderData, *MasterToken, error) {
	r := responder{cfg: cfg, entities: keys, issuer: keys}
	g, err := r.give(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	answer, err := r.respond(ctx, req, g)
	if err != nil {
		return nil, nil, err
	}
	w, err := newMessageWriter(ctx, out, answer)
	if err != nil {
		return nil, nil, err
	}
	if data == nil {
		return answer.header, answer.outer.master, w.closeHeader()
	}
	if _, err := w.Write(data); err != nil {
		return nil, nil, err
	}
	return answer.header, answer.outer.master, w.Close()
}

// ParseRemote parses the data of a remote entity. keys opens tokens, if it can.
func (c *Config) ParseRemote(ctx context.Context, keys EntityKeys, encoded []byte) (EntityAuthData, error) {
	o := opener{cfg: c, entities: keys}
	o.tokens, _ = keys.(TokenOpener)
	return o.entityData(ctx, parseFields(encoded, "test", MSLParseError))
}

var SealServiceToken = sealServiceToken

// OpenServiceToken does what readTokens does with each service token.
func OpenServiceToken(ctx context.Context, cfg *Config, keys ServiceTokenKeys, encoded []byte, m *MasterToken, u *UserIDToken) (*ServiceToken, error) {
	t, err := ParseServiceToken(encoded)
	if err != nil {
		return nil, err
	}
	if err := openServiceToken(ctx, cfg, keys, t); err != nil {
		return nil, err
	}
	return t, t.checkBinding(m, u)
}

func (t *MasterToken) Same(o *MasterToken) bool { return t.same(o) }
