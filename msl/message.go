// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"io"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// How much of a message is opened at once, at most (bytes of envelopes).
const (
	maxParts     = 16
	maxPartBytes = 1 << 20
)

// drainLimit is how much application data Close reads and drops so that the stream can be used again.
const drainLimit = 256 << 10

// A Message is a message from a peer whose header was verified. It reads its application data as it
// arrives, and holds at most a MiB of it. It is not safe for concurrent use.
type Message struct {
	ID              int64
	Timestamp       int64          // Unix seconds; -1 if the peer did not tell
	Entity          EntityAuthData // zero if a master token identifies the sender
	MasterToken     *MasterToken   // nil if entity authentication data identifies the sender
	Session         *Session       // on the side that issued MasterToken
	Renewable       bool
	NonReplayableID int64 // -1 if the message may be replayed
	Capabilities    *Capabilities
	KeyRequests     []KeyRequest
	KeyResponse     *KeyResponse
	NewSession      CryptoContext // the session that KeyResponse gave
	User            string        // who authenticated, or whom the user ID token names; "" if unknown
	UserAuth        bool          // User authenticated in this message
	UserIDToken     *UserIDToken
	ServiceTokens   []*ServiceToken

	// In a peer-to-peer network: what the peer wants this side to show next time (§8.14). The peer has issued
	// the tokens; they are not verified.
	PeerMasterToken   *MasterToken
	PeerUserIDToken   *UserIDToken
	PeerServiceTokens []*ServiceToken

	// Encrypted and IntegrityProtected tell what protects the application data.
	Encrypted, IntegrityProtected bool

	// Err is set if this is an error message. It has no data, and ID, Timestamp and Entity are those of the
	// error.
	Err *RemoteError

	ctx       context.Context // for Read, which io.Reader gives none
	decoder   *mslenc.Decoder
	limits    Limits
	header    CryptoContext // that the header was opened with
	payloads  CryptoContext // that payloads are opened with
	handshake bool
	bare      bool // may end without any chunk (§8.6)

	peerToPeer bool

	plain  [][]byte // opened payloads that were not looked at yet
	failed error    // what comes after them
	next   int64    // sequence number of the next chunk
	ahead  *payload // the first chunk, if it was looked at already
	rest   []byte   // of the present chunk
	end    error    // io.EOF or what went wrong; final
	closed bool
}

// Identity returns the name of the sender as far as this side can know it: a client cannot read its own
// master token.
func (m *Message) Identity() string {
	if m.Session != nil {
		return m.Session.Identity
	}
	return m.Entity.identity
}

// Handshake reports whether the message only asks for keys, and has no data (§4.9).
func (m *Message) Handshake() bool { return m.handshake }

// Read reads application data. At the end of the message it returns io.EOF, and never before: a message
// that was cut off ends with an error.
func (m *Message) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(m.rest) == 0 {
		chunk, err := m.NextChunk(m.ctx)
		if err != nil {
			return 0, err
		}
		m.rest = chunk
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}

// WriteTo writes the rest of the application data to w, chunk by chunk as it arrives.
func (m *Message) WriteTo(w io.Writer) (written int64, err error) {
	for {
		chunk, err := m.NextChunk(m.ctx)
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(chunk)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
}

// NextChunk returns the application data of the next payload, which belongs to the caller, or what Read
// left of the present one. It is never empty. At the end the error is io.EOF.
func (m *Message) NextChunk(ctx context.Context) ([]byte, error) {
	if chunk := m.rest; len(chunk) > 0 {
		m.rest = nil
		return chunk, nil
	}
	for m.end == nil {
		p := m.ahead
		m.ahead = nil
		if p == nil {
			var err error
			if p, err = m.nextPayload(ctx); err == io.EOF {
				m.finish(err)
				break
			} else if err != nil {
				m.finish(withID(err, m.ID))
				break
			}
		}
		if p.End {
			m.finish(io.EOF)
		}
		if len(p.Data) > 0 {
			return p.Data, nil
		}
	}
	return nil, m.end
}

func (m *Message) finish(err error) {
	m.end = err
	m.plain, m.failed, m.ahead = nil, nil, nil
}

// nextPayload opens and checks the next payload (§4.7). io.EOF stands for a message without any.
func (m *Message) nextPayload(ctx context.Context) (*payload, error) {
	if len(m.plain) == 0 && m.failed == nil {
		m.fill(ctx)
	}
	if len(m.plain) == 0 {
		return nil, m.failed
	}
	plain := m.plain[0]
	m.plain = m.plain[1:]
	p, err := parsePayload(plain, m.limits.Inflate)
	if cap(plain) > smallPayload { // else the data is there
		recyclePart(m.payloads, plain)
	}
	switch {
	case err != nil:
		return nil, err
	case p.MessageID != m.ID:
		return nil, fail(PayloadMessageIDMismatch, "payload", nil)
	case p.Sequence != m.next:
		return nil, fail(PayloadSequenceNumberMismatch, "payload", nil)
	}
	m.next = addID(m.next, 1)
	return p, nil
}

// fill waits for the next chunk and opens it, together with those that arrived with it.
func (m *Message) fill(ctx context.Context) {
	if err := ctx.Err(); err != nil {
		m.failed = fail(MSLCommsFailure, "payload", err)
		return
	}
	o, err := m.decoder.Next()
	if err != nil {
		m.failed = m.streamError(err)
		return
	}
	mem := arenas.Get().(*mslenc.Arena)
	defer giveBack(mem)
	part, err := parseChunk(mem, o, m.limits.Payload)
	if err != nil {
		m.failed = err
		return
	}
	parts, later := readAhead(mem, m.decoder, []Part{part}, m.limits.Payload)
	m.plain, err = openParts(ctx, m.payloads, parts)
	m.failed = later
	if err != nil {
		m.failed = custodyError(err, PayloadVerificationFailed, "payload")
	} else if len(m.plain) != len(parts) {
		m.plain, m.failed = nil, fail(InternalException, "payload", nil)
	}
}

// streamError says what it means that the stream ends, or holds something else than a chunk.
func (m *Message) streamError(err error) error {
	switch {
	case err == io.EOF && m.bare && m.next == 1:
		return io.EOF
	case err == io.EOF:
		return fail(MessageDataMissing, "end of message", io.ErrUnexpectedEOF)
	}
	return decoderError(err, "payload chunk")
}

// decoderError tells bad content (and an end inside an object, which looks the same) from a failure of the connection.
func decoderError(err error, op string) error {
	if _, ok := err.(*mslenc.FieldError); ok || err == io.EOF || err == io.ErrUnexpectedEOF {
		return fail(MSLParseError, op, err)
	}
	return fail(MSLCommsFailure, op, err)
}

// readAhead adds to parts the chunks that are in the decoder's buffer already, within bounds. The error
// is of the object after them. It stops at the header of another message.
func readAhead(mem *mslenc.Arena, d *mslenc.Decoder, parts []Part, limit int) ([]Part, error) {
	size := 0
	for _, p := range parts {
		size += len(p.Data)
	}
	for len(parts) < maxParts && size < maxPartBytes && d.Ready() {
		o, err := d.Next()
		if err != nil {
			return parts, decoderError(err, "payload chunk")
		}
		if !o.Has("payload") {
			d.Unread()
			break
		}
		p, err := parseChunk(mem, o, limit)
		if err != nil {
			return parts, err
		}
		parts = append(parts, p)
		size += len(p.Data)
	}
	return parts, nil
}

// inferHandshake looks at the first chunk of a message from a peer that may not know the handshake flag
// (§4.9): nothing but the end makes it a handshake.
func (m *Message) inferHandshake(ctx context.Context) error {
	if m.handshake || !m.Renewable || len(m.KeyRequests) == 0 {
		return nil
	}
	p, err := m.nextPayload(ctx)
	if err != nil {
		return err
	}
	if p.End && len(p.Data) == 0 {
		m.handshake = true
		m.finish(io.EOF)
		return nil
	}
	m.ahead = p
	return nil
}

// holdLimit is how much application data hold keeps.
const holdLimit = 1 << 20

// hold reads the rest of the data into memory, so that what follows on the same stream can be read.
func (m *Message) hold() error {
	var data []byte
	for {
		chunk, err := m.NextChunk(m.ctx)
		if err == io.EOF {
			m.rest = data
			return nil
		}
		if err != nil {
			return err
		}
		if data = append(data, chunk...); len(data) > holdLimit {
			return fail(ResponseRequiresEncryption, "data before keys", nil)
		}
	}
}

// finishAtHand drops the data that is here already, which may be the rest.
func (m *Message) finishAtHand() {
	m.rest = nil
	for m.end == nil && (m.ahead != nil || len(m.plain) > 0 || m.decoder.Ready()) {
		_, _ = m.NextChunk(m.ctx)
	}
}

var errMessageClosed = fail(MSLCommsFailure, "closed message", io.ErrClosedPipe)

// Close drops the rest of the data. It reads what little there may be of it, so that the next message
// on the same stream can be read, and returns an error if there was more, or the message is not sound.
func (m *Message) Close() error {
	if m.closed {
		return nil
	}
	m.closed, m.rest = true, nil
	for dropped := 0; m.end == nil; {
		chunk, err := m.NextChunk(m.ctx)
		if err != nil {
			break
		}
		if dropped += len(chunk); dropped > drainLimit {
			m.finish(fail(MSLCommsFailure, "message closed before its end", io.ErrClosedPipe))
		}
	}
	err := m.end
	m.finish(errMessageClosed)
	if err == io.EOF {
		return nil
	}
	return err
}
