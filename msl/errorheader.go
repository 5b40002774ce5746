// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"errors"
	"strconv"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// A RemoteError is an error message that the peer sent (§4.12). errors.Is finds its Code, if the peer
// told one that §9 has.
type RemoteError struct {
	Entity       EntityAuthData // who sent it
	MessageID    int64
	Timestamp    int64        // Unix seconds; -1 if the peer did not tell
	Response     ResponseCode // what to do about it
	InternalCode int32        // §9, with the base of 100000; -1 if the peer did not tell
	Text         string       // for logs; in no particular language
	UserText     string       // for the user
}

func (e *RemoteError) Error() string {
	s := "msl: the peer refused: " + e.Response.String()
	if c := e.Code(); c != 0 {
		s += ": " + c.Error()
	} else if e.InternalCode > 0 { // of another stack
		s += ": internal code " + strconv.Itoa(int(e.InternalCode))
	}
	return s
}

// Code returns the error that the peer named, or 0 if it named none that §9 has.
func (e *RemoteError) Code() Code {
	if e.InternalCode < 0 {
		return 0
	}
	c := Code(e.InternalCode)
	if _, ok := c.info(); !ok {
		return 0
	}
	return c
}

// Unwrap returns Code as an error.
func (e *RemoteError) Unwrap() error {
	if c := e.Code(); c != 0 {
		return c
	}
	return nil
}

func (e *RemoteError) encode() []byte {
	var b mslenc.Builder
	b.Int("timestamp", e.Timestamp)
	b.Int("messageid", e.MessageID)
	b.Int("errorcode", int64(e.Response))
	if e.InternalCode > 0 {
		b.Int("internalcode", int64(e.InternalCode))
	}
	if e.Text != "" {
		b.String("errormsg", e.Text)
	}
	if e.UserText != "" {
		b.String("usermsg", e.UserText)
	}
	return b.Bytes()
}

// parseErrorData reads decrypted error data in the order of §4.12. Errors that follow the message id carry it.
func parseErrorData(plain []byte) (*RemoteError, error) {
	f := parseFields(plain, "error data", MSLParseError)
	e := &RemoteError{Timestamp: -1, InternalCode: -1}
	e.MessageID = f.id("messageid", MessageIDOutOfRange)
	if f.err != nil {
		return nil, f.err
	}
	if f.has("timestamp") {
		e.Timestamp = f.number("timestamp")
	}
	e.Response = Fail
	if r := f.number32("errorcode"); r >= int32(Fail) && r <= int32(SSOTokenRejected) {
		e.Response = ResponseCode(r)
	}
	if f.has("internalcode") {
		if e.InternalCode = f.number32("internalcode"); e.InternalCode < 0 {
			f.refuse(InternalCodeNegative, "internalcode")
		}
	}
	e.Text, e.UserText = f.optionalText("errormsg"), f.optionalText("usermsg")
	if f.err != nil {
		return nil, withID(f.err, e.MessageID)
	}
	return e, nil
}

// number32 reads a 32-bit number. One that does not fit counts as negative, so no peer can make it
// look like another.
func (f *fields) number32(name string) int32 {
	v := f.number(name)
	if v != int64(int32(v)) {
		return -1
	}
	return int32(v)
}

// optionalText is "" for a member that is absent or no text.
func (f *fields) optionalText(name string) string {
	if !f.has(name) {
		return ""
	}
	v, _ := f.obj.String(name)
	return v
}

// sealError returns the error message that answers a message which failed with err (§4.12). languages
// are those of the failed message, if they are known.
func sealError(ctx context.Context, cfg *Config, keys EntityKeys, err error, languages []string) ([]byte, error) {
	code, id := CodeOf(err), int64(-1)
	if e, ok := errors.AsType[*Error](err); ok {
		id = e.MessageID
	}
	e := &RemoteError{
		Timestamp:    cfg.now().Unix(),
		MessageID:    randomID(),
		Response:     code.Response(),
		InternalCode: int32(code),
		Text:         code.Error(),
	}
	if id >= 0 {
		e.MessageID = addID(id, 1)
	}
	if cfg.UserMessage != nil {
		e.UserText = cfg.UserMessage(code, languages)
	}
	return e.seal(ctx, cfg, keys)
}

// seal protects the error with the keys of this side, whatever the failed message used.
func (e *RemoteError) seal(ctx context.Context, cfg *Config, keys EntityKeys) ([]byte, error) {
	if cfg.Entity.IsZero() {
		return nil, fail(MessageEntityNotFound, "error message", nil)
	}
	if e.MessageID < 0 || e.MessageID > mslenc.MaxLong {
		return nil, fail(MessageIDOutOfRange, "error message", nil)
	}
	own, err := ownContext(ctx, cfg, keys)
	if err != nil {
		return nil, err
	}
	parts, err := own.Seal(ctx, [][]byte{e.encode()})
	if err != nil {
		return nil, custodyError(err, InternalException, "error message")
	}
	if len(parts) != 1 {
		return nil, fail(InternalException, "error message", nil)
	}
	h := outerHeader{entity: cfg.Entity, part: parts[0], isError: true}
	return h.encode(), nil
}
