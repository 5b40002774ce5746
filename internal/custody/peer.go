// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/internal/wire"
)

// A Peer is one connection to the agent. Its handles mean nothing to other peers. It is safe for
// concurrent use.
type Peer struct {
	agent    *Agent
	sessions *table[*session]
	entities *table[*entity]
	pending  *table[pendingExchange]
	imports  *table[*recordImport]
	users    *cache[user]   // opened user ID tokens
	services *cache[[]byte] // data of opened service tokens, if it is not large
	quick    *mslenc.Arena  // what quick requests give; of the goroutine that handles them

	mu      sync.Mutex
	opening map[[32]byte]chan struct{} // master tokens that a provider is opening; closed when done
	sweeper *time.Timer
	closed  bool
}

var _ wire.Quick = (*Peer)(nil)

// NewPeer starts a connection. It must be closed.
func (a *Agent) NewPeer() *Peer {
	unused := a.limits.ofOthers()
	p := &Peer{
		agent:    a,
		sessions: newTable[*session](a.limits, a.limits.Sessions, a.now, &a.sessions),
		entities: newTable[*entity](unused, a.limits.Entities, a.now, &a.entities),
		pending:  newTable[pendingExchange](unused, a.limits.Pending, a.now, &a.pendings),
		imports:  newTable[*recordImport](unused, maxImports, a.now, new(atomic.Int64)),
		services: newCache[[]byte](maxCachedTokens, a.limits.Age, a.now),
		users:    newCache[user](a.limits.Sessions, a.limits.Age, a.now),
		opening:  make(map[[32]byte]chan struct{}),
		quick:    mslenc.NewArena(4 * quickBytes),
	}
	p.mu.Lock() // against the first sweep
	defer p.mu.Unlock()
	p.sweeper = time.AfterFunc(p.sweepEvery(), p.sweep)
	return p
}

// sweepEvery is how late keys may be wiped that nobody asks for any more.
func (p *Peer) sweepEvery() time.Duration {
	return max(time.Second, min(p.agent.limits.Idle, p.agent.limits.Age)/8)
}

func (p *Peer) sweep() {
	p.sessions.sweep()
	p.entities.sweep()
	p.pending.sweep()
	p.imports.sweep()
	p.agent.records.sweep()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.sweeper.Reset(p.sweepEvery())
	}
}

// Close wipes everything that the peer's handles name. Operations that still run end first.
func (p *Peer) Close() {
	p.mu.Lock()
	p.closed = true
	p.sweeper.Stop()
	p.mu.Unlock()
	p.sessions.close()
	p.entities.close()
	p.pending.close()
	p.imports.close()
	p.users.clear()
	p.services.clear()
}

// Service tokens travel with every message. So that an HSM is not asked each time, what small ones say is remembered.
const (
	maxCachedTokens = 4096
	maxCachedData   = 8 << 10 // bytes
)

// quickBytes is up to how many bytes sealing or opening is too quick to be worth a goroutine.
const quickBytes = 16 << 10

// Quick reports whether a request takes microseconds and asks no provider: to seal or open small parts
// under the keys of a session that is open.
func (p *Peer) Quick(r wire.Request) bool {
	switch r := r.(type) {
	case *wire.SealRequest:
		return totalBytes(r.Plain) < quickBytes && p.sessions.names(r.Context)
	case *wire.OpenRequest:
		return partBytes(r.Parts) < quickBytes && p.sessions.names(r.Context)
	case *wire.OpenMasterTokenRequest:
		return partBytes(r.Parts)+len(r.Token.Data) < quickBytes && p.sessions.has(tokenHash(r.Token))
	case *wire.ReleaseRequest:
		return true
	}
	return false
}

func totalBytes(plain [][]byte) (n int) {
	for _, b := range plain {
		n += len(b)
	}
	return n
}

func partBytes(parts []wire.Part) (n int) {
	for _, part := range parts {
		n += len(part.Data) + len(part.Signature)
	}
	return n
}

// HandleQuick is Handle for requests that are quick, one at a time.
func (p *Peer) HandleQuick(ctx context.Context, r wire.Request) (wire.Reply, error) {
	p.quick.Reset() // the last reply was copied
	return p.handle(ctx, r, p.quick)
}

// Handle answers a request. Its errors are of type *wire.Error. It keeps nothing of the request; the
// reply may share memory with it.
func (p *Peer) Handle(ctx context.Context, r wire.Request) (wire.Reply, error) {
	return p.handle(ctx, r, nil)
}

func (p *Peer) handle(ctx context.Context, r wire.Request, mem *mslenc.Arena) (wire.Reply, error) {
	switch r.(type) {
	case *wire.GenerateKeyRequest, *wire.ImportKeyRequest, *wire.RotateKeyRequest,
		*wire.OpenImportRequest, *wire.ReadImportRequest, *wire.RewrapRequest:
		if !p.agent.cfg.Manage {
			return nil, wire.Fail(wire.Denied, "changing keys")
		}
	}
	switch r := r.(type) {
	case *wire.OpenMasterTokenRequest:
		return reply(p.openMasterToken(ctx, r, mem))("opening a master token", failed)
	case *wire.SealRequest:
		return reply(p.seal(ctx, r, mem))("sealing", failed)
	case *wire.OpenRequest:
		return reply(p.open(ctx, r, mem))("opening", failed)
	case *wire.EntityContextRequest:
		return reply(p.entityContext(ctx, r))("finding the keys of an entity", failed)
	case *wire.IssueRequest:
		return reply(p.issue(ctx, r))("issuing a master token", exchangeFailed)
	case *wire.OpenUserIDTokenRequest:
		return reply(p.openUserIDToken(ctx, r))("opening a user ID token", failed)
	case *wire.IssueUserIDTokenRequest:
		return reply(p.issueUserIDToken(ctx, r))("issuing a user ID token", failed)
	case *wire.OpenServiceTokenRequest:
		return reply(p.openServiceToken(ctx, r))("opening a service token", failed)
	case *wire.SealServiceTokenRequest:
		return reply(p.sealServiceToken(ctx, r))("sealing a service token", failed)
	case *wire.BeginExchangeRequest:
		return reply(p.beginExchange(ctx, r))("beginning a key exchange", exchangeFailed)
	case *wire.FinishExchangeRequest:
		return reply(p.finishExchange(ctx, r))("finishing a key exchange", exchangeFailed)
	case *wire.SealSessionRequest:
		return reply(p.sealSession(ctx, r))("sealing a session", failed)
	case *wire.UnsealSessionRequest:
		return reply(p.unsealSession(ctx, r))("unsealing a session", failed)
	case *wire.ReleaseRequest:
		for _, h := range r.Handles {
			p.sessions.drop(h)
			p.entities.drop(h)
			p.pending.drop(h)
			p.imports.drop(h)
		}
		return new(wire.ReleaseReply), nil
	case *wire.HealthRequest:
		return reply(p.agent.health(ctx))("asking for health", failed)
	case *wire.KeysRequest:
		return reply(p.agent.keys(ctx, r))("listing keys", failed)
	case *wire.GenerateKeyRequest:
		return reply(p.agent.generateKey(ctx, r))("generating a key", failed)
	case *wire.ImportKeyRequest:
		return reply(p.agent.importKey(ctx, r))("importing a key", failed)
	case *wire.RotateKeyRequest:
		return reply(p.agent.rotateKey(ctx, r))("rotating a key", failed)
	case *wire.PublicKeyRequest:
		return reply(p.agent.publicKey(ctx, r))("reading a public key", failed)
	case *wire.OpenImportRequest:
		return reply(p.openImport(r))("opening a file of entities", failed)
	case *wire.ReadImportRequest:
		return reply(p.readImport(ctx, r))("importing entities", failed)
	case *wire.RewrapRequest:
		return reply(p.agent.rewrap(ctx, r))("sealing records anew", failed)
	}
	return nil, wire.Fail(wire.NotSupported, "request")
}

// reply turns an operation's result into that of Handle.
func reply[T any, R interface {
	*T
	wire.Reply
}](r R, err error) func(op string, failed func(string, error) *wire.Error) (wire.Reply, error) {
	return func(op string, failed func(string, error) *wire.Error) (wire.Reply, error) {
		if err != nil {
			return nil, failed(op, err)
		}
		return r, nil
	}
}
