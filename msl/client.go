// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// maxMessages is how many messages one operation may take, both ways together (§8.2).
const maxMessages = 12

// maxReplay is how many bytes of application data a client keeps in case it has to send them again and
// cannot read them again.
const maxReplay = 64 << 10

// A Protection is what application data must have on its way. The zero value demands all of it.
type Protection uint8

const (
	Encrypted          Protection = iota // encrypted and integrity-protected
	IntegrityProtected                   // readable on the way, but not to be changed
	Unprotected
)

// A Client sends requests to one peer, and keeps the tokens that it gets. It is safe for concurrent
// use; many goroutines should share one, so that they share its session.
type Client struct {
	config    *Config
	scheme    *entityScheme
	keys      ClientKeys
	issuer    ServerKeys // in a peer-to-peer network, else nil
	transport Transport
	state     clientState
	renewal   renewalLock
	cache     *tokenCache

	offset atomic.Int64 // seconds that the peer's clock is ahead of ours (§8.7)
	synced atomic.Bool
}

// NewClient returns a client of the peer that transport leads to. Store may be nil, for tokens that
// last as long as the client. Nothing is read or sent before the first request.
//
// In a peer-to-peer network keys must be ServerKeys as well, and the exchanges of transport must carry several
// messages each way, as those of StreamTransport do and those of HTTPTransport do not.
func NewClient(c *Config, keys ClientKeys, transport Transport, store Store) (*Client, error) {
	scheme, err := c.ownScheme()
	if err == nil {
		err = errors.Join(c.checkSchemes(), c.checkKeyExchanges())
	}
	if err != nil {
		return nil, err
	}
	if store == nil {
		store = new(MemoryStore)
	}
	config := *c
	config.Capabilities = config.capabilities().ready()
	client := &Client{config: &config, scheme: scheme, keys: keys, transport: transport, cache: newTokenCache(), state: clientState{store: store, keys: keys}}
	if c.PeerToPeer {
		if err := client.issues(); err != nil {
			return nil, err
		}
	}
	return client, nil
}

func (c *Client) now() time.Time { return c.config.clock()() }

// Close wipes the session that the client holds. Its store keeps the sealed one. Requests under way
// are not disturbed.
func (c *Client) Close() {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	c.state.session.release()
	c.state.session = nil
}

// A Request is one message to a peer. Its zero value is an encrypted message without data.
type Request struct {
	// Body is the application data. Where it has to be sent twice (§8.5), the client seeks back if Body is an
	// io.Seeker, or uses what it kept of the first 64 KiB; failing that, Do returns a *ReplayError.
	Body io.Reader

	// Stream, if not nil, writes the application data instead of Body, and decides when to flush. It runs
	// in a goroutine of its own while the response arrives, and again if the message must be sent again.
	Stream func(ctx context.Context, w *MessageWriter) error

	Protection    Protection
	NonReplayable bool // the peer must accept the message at most once (§3.5)

	// RequestTokens asks for a master token, and for a user ID token if there is a User, before or with this
	// message (§8.7).
	RequestTokens bool

	// User is the local name of the user on whose behalf the message is sent, and under which the user's
	// tokens are kept. Empty for none.
	User string

	// Credentials returns the user's authentication data when a user ID token is needed. again is set
	// when the peer rejected what it returned before. Nil, or a nil result, goes without, or gives up.
	Credentials func(ctx context.Context, again bool) (*UserAuthData, error)

	// ServiceTokens are sent beside those that the client keeps, and kept if the message is sent. One with
	// empty data deletes the kept token of that name and binding (§3.4).
	ServiceTokens []NewServiceToken

	// Compression is "" for the first algorithm of the capabilities, "NONE", "GZIP" or "LZW" (§4.6).
	Compression string

	// ChunkSize is the most data in one payload, in bytes. 0 means 64 KiB.
	ChunkSize int

	// AcceptPush lets the answer be a message that the peer pushes (§8.6). Such a message answers nothing, so nothing
	// tells whether it was sent just now: somebody who recorded an earlier one can put it in its place. It is for the same
	// user, as its user ID token says, so a request that is to bring the first one cannot be answered so.
	AcceptPush bool
}

// A Response is the peer's answer. Its Message must be closed.
type Response struct {
	*Message
	// Exchanged: on the way to this answer, keys were exchanged.
	Exchanged bool

	exchange *exchange
}

// Close ends the exchange. A response that was not read to its end breaks the connection off. Nothing
// can be read after it.
func (r *Response) Close() error {
	x := r.exchange
	if _, ok := x.transport.(*streamExchange); ok {
		r.Message.finishAtHand()
		x.answered = r.Message.end == io.EOF && !x.request.AcceptPush // after which more may come
	}
	if x.client.issuer != nil && x.writing != nil && r.Message.end == io.EOF {
		err := <-x.writing // the tokens that the peer has asked for may still be on their way
		x.writing, x.answered = nil, x.answered && err == nil
	}
	r.Message.finish(errClosed)
	r.Message.rest = nil
	return x.close()
}

// A ReplayError means that the peer asked for a message again whose application data could not be
// read again. The tokens were renewed as it asked, so a new request should succeed.
type ReplayError struct{ Err error }

func (e *ReplayError) Error() string {
	return fmt.Sprintf("msl: the message has to be sent again, but its data is gone: %v", e.Err)
}

// Unwrap returns the peer's error.
func (e *ReplayError) Unwrap() error { return e.Err }

// errTooManyMessages ends an operation at the message limit.
var errTooManyMessages = errors.New("msl: no answer within the limit of 12 messages")

// Do sends a request and returns the response (§8.4). On the way it exchanges keys, authenticates the
// user, renews tokens and recovers from errors that the peer reports (§8.5), as far as that takes no more
// than 12 messages. An error message that it cannot recover from is returned as *RemoteError.
//
// Large bodies are sent while the response is read. The response is valid until it is closed or ctx
// ends.
func (c *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	ctx, x := c.exchange(ctx, r)
	m, err := x.run(ctx)
	if err != nil {
		x.complain(ctx, err)
		x.close()
		return nil, err
	}
	return &Response{Message: m, Exchanged: x.exchanged, exchange: x}, nil
}

func (c *Client) exchange(ctx context.Context, r *Request) (context.Context, *exchange) {
	ctx, cancel := context.WithCancel(ctx)
	return ctx, &exchange{client: c, request: r, cancel: cancel, body: newBody(r)}
}

// An exchange is one call of Do or Send. It is used by one goroutine, but for the body, which a second one may
// be writing.
type exchange struct {
	client  *Client
	request *Request
	cancel  context.CancelFunc
	body    *body
	pending []*pendingRequest // key requests made so far, to be sent again if need be
	oneWay  bool              // nobody answers the data (§8.1)
	peer    peerSide          // of a peer-to-peer network

	// What the next message is to be (§8.5).
	snapshot
	messageID   int64 // 0 for a random one
	hasID       bool
	renewable   bool // we own the renewal lock
	forced      bool // the message must be renewable, or built on a token other than forcedFrom
	forcedFrom  *MasterToken
	afresh      bool  // the message must not be built on forcedFrom
	keysFirst   bool  // and must be a handshake
	withoutUser bool  // no user ID token, even if there is one
	again       bool  // user authentication data was rejected
	last        error // the last error message
	first       error // the first error message, to be returned at the limit

	// What the last one was.
	sentHandshake bool
	sentData      bool
	sentKeys      bool // key requests

	exchanged bool // any of them brought a master token
	answered  bool // nothing more comes after the last answer

	held      []*clientSession // new sessions whose keys the answer is read with
	transport Exchange
	writing   chan error // result of a body that is written in the background
}

// run is the request loop (§8.4). It returns the answer, or nil to a message that has none.
func (x *exchange) run(ctx context.Context) (*Message, error) {
	for count := 0; count+2 <= maxMessages; count += 2 {
		m, err := x.roundTrip(ctx)
		if err != nil {
			return nil, err
		}
		switch {
		case m == nil:
			return nil, nil
		case m.Err != nil:
			if x.first == nil {
				x.first = m.Err
			}
			if err := x.recover(ctx, m); err != nil {
				return nil, err
			}
		case x.sentHandshake, x.client.issuer != nil && m.Handshake():
			x.messageID, x.hasID = addID(m.ID, 1), true
			x.forced, x.afresh, x.keysFirst = false, false, false
			x.answers(m)
		default:
			return m, x.reply(ctx, m)
		}
		x.answered = true
		x.endTrip()
	}
	if x.first != nil {
		return nil, x.first
	}
	return nil, errTooManyMessages
}
