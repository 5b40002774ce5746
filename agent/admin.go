// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
)

// A Key describes one version of one key. It never holds a private or secret key.
type Key struct {
	Name    string    `json:"name"`
	Version uint32    `json:"version"`
	Type    string    `json:"type"` // "aes-128", "aes-256", "hmac-sha256", "rsa-2048", "ec-p256"
	Created time.Time `json:"created,omitzero"`
	Uses    uint64    `json:"uses"`   // since the agent was started
	Opened  uint64    `json:"opened"` // master tokens, in the last hour
}

// A Finding is one thing that the agent reports of its own state.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// A Health is the state of an agent.
type Health struct {
	Findings []Finding `json:"findings"` // what hardening could not be done, and how each provider is
	Sessions int       `json:"sessions"` // open now, of all connections
	Entities int       `json:"entities"`
}

// Health asks the agent how it is.
func (c *Client) Health(ctx context.Context) (*Health, error) {
	var reply wire.HealthReply
	if err := c.call(ctx, "health", &wire.HealthRequest{}, &reply); err != nil {
		return nil, err
	}
	h := &Health{Sessions: int(reply.Sessions), Entities: int(reply.Entities)}
	for _, f := range reply.Findings {
		h.Findings = append(h.Findings, Finding(f))
	}
	return h, nil
}

// PID returns the process id of the agent that is connected now, or 0.
func (c *Client) PID() int {
	if c.link == nil {
		return 0
	}
	conn, _, _ := c.link.current()
	if conn == nil {
		return 0
	}
	return int(conn.Hello().AgentPID)
}

// A KeysError says which of the agent's providers did not list their keys. The keys of the others are listed.
type KeysError struct {
	Failed []Finding
}

func (e *KeysError) Error() string {
	s := "list keys: not all providers answered"
	for _, f := range e.Failed {
		s += "; " + f.Name + ": " + f.Detail
	}
	return s
}

// Keys lists the keys whose name begins with prefix, by name and version. If some providers fail, it returns the keys
// of the others and a [*KeysError].
func (c *Client) Keys(ctx context.Context, prefix string) ([]Key, error) {
	var reply wire.KeysReply
	if err := c.call(ctx, "list keys", &wire.KeysRequest{Prefix: prefix}, &reply); err != nil {
		return nil, err
	}
	if len(reply.Failed) == 0 {
		return fromWire(reply.Keys), nil
	}
	e := new(KeysError)
	for _, f := range reply.Failed {
		e.Failed = append(e.Failed, Finding(f))
	}
	return fromWire(reply.Keys), e
}

// GenerateKey makes a key, or for type "keyset" the three keys of a crypto context, and returns what it made.
func (c *Client) GenerateKey(ctx context.Context, name, typ string) ([]Key, error) {
	return c.change(ctx, "generate key", &wire.GenerateKeyRequest{Name: name, Type: typ})
}

// ImportKey makes the agent read a key from a file, or for path "-" from its standard input, which is
// that of the process that started it. The key does not pass through this process. format is "hex",
// "base64", "jwk", "pkcs8", or empty to find out.
func (c *Client) ImportKey(ctx context.Context, name, typ, path, format string) ([]Key, error) {
	return c.change(ctx, "import key", &wire.ImportKeyRequest{Name: name, Type: typ, Path: path, Format: format})
}

// RotateKey makes the next version of a key or key set.
func (c *Client) RotateKey(ctx context.Context, name string) ([]Key, error) {
	return c.change(ctx, "rotate key", &wire.RotateKeyRequest{Name: name})
}

func (c *Client) change(ctx context.Context, op string, req wire.Request) ([]Key, error) {
	var reply wire.ChangedKeysReply
	err := c.call(ctx, op, req, &reply)
	return fromWire(reply.Keys), err
}

// PublicKey returns the public half of a key pair as a SubjectPublicKeyInfo in DER. Version 0 is the newest.
func (c *Client) PublicKey(ctx context.Context, name string, version uint32) (Key, []byte, error) {
	var reply wire.PublicKeyReply
	err := c.call(ctx, "public key", &wire.PublicKeyRequest{Name: name, Version: version}, &reply)
	if err != nil {
		return Key{}, nil, err
	}
	return fromWire([]wire.Key{reply.Key})[0], reply.SPKI, nil
}

func fromWire(keys []wire.Key) []Key {
	ks := make([]Key, len(keys))
	for i, k := range keys {
		ks[i] = Key{Name: k.Name, Version: k.Version, Type: k.Type, Uses: k.Uses, Opened: k.Opened}
		if k.Created != 0 {
			ks[i].Created = time.Unix(k.Created, 0)
		}
	}
	return ks
}
