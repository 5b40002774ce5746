// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"io"
	"time"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// This is what an exchange does with its connection.

// lost reports whether the message has not arrived, or does no harm if it arrives twice, and can be sent again.
func (x *exchange) lost() bool {
	s, ok := x.transport.(*streamExchange)
	if !ok || x.writing != nil {
		return false
	}
	lost, unsent := s.lost()
	return lost && (!x.sentData || (unsent || !x.request.NonReplayable) && x.replayable())
}

// open begins an exchange with the peer, if there is none: on a new connection, or on any.
func (x *exchange) open(ctx context.Context, anew bool) (err error) {
	x.answered = false
	if x.transport != nil {
		return nil
	}
	if t, ok := x.client.transport.(*StreamTransport); ok && anew {
		x.transport, err = t.open(ctx)
	} else {
		x.transport, err = x.client.transport.Open(ctx)
	}
	x.peer.decoder = nil
	return err
}

// answer returns a decoder of what the peer sends back. Between peers it stands before a message.
func (x *exchange) answer() (*mslenc.Decoder, error) {
	limits := x.client.config.decoderLimits()
	stream, ok := x.transport.(*streamExchange)
	if ok && x.peer.decoder == nil {
		x.peer.decoder = stream.decoder(limits)
	} else if x.client.issuer != nil && x.peer.decoder == nil {
		x.peer.decoder = mslenc.NewDecoder(x.transport, limits)
	}
	if d := x.peer.decoder; d != nil {
		err := findHeader(d)
		if err == io.EOF {
			err = fail(MSLCommsFailure, "answer", io.ErrUnexpectedEOF)
		}
		return d, err
	}
	if t, ok := x.transport.(interface{ whole() []byte }); ok {
		if b := t.whole(); b != nil {
			return mslenc.NewBytesDecoder(b, limits), nil
		}
	}
	return mslenc.NewDecoder(x.transport, limits), nil
}

// hangUp ends the use of a connection, which is kept for others if both messages on it are complete.
func (x *exchange) hangUp() {
	if x.transport == nil {
		return
	}
	if s, ok := x.transport.(*streamExchange); ok && x.answered && x.written() {
		s.release()
	} else {
		x.transport.Close()
	}
	x.transport = nil
}

// writeGrace is how long an answer that is complete waits for the request to be so.
const writeGrace = 20 * time.Millisecond

// written reports whether the request was sent.
func (x *exchange) written() bool {
	if x.writing == nil {
		return true
	}
	select {
	case err := <-x.writing:
		x.writing = nil
		return err == nil
	case <-time.After(writeGrace):
		return false
	}
}
