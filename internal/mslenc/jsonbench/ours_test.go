// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package jsonbench

import (
	"encoding/json"
	"errors"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// A fields reads members of one object, and keeps the first error.
type fields struct {
	o   mslenc.Object
	err error
}

func parse(b []byte) fields {
	o, err := mslenc.Parse(b)
	return fields{o, err}
}

func (f *fields) note(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *fields) binary(name string) []byte {
	v, err := f.o.Binary(name)
	f.note(err)
	return v
}

func (f *fields) text(name string) string {
	v, err := f.o.String(name)
	f.note(err)
	return v
}

func (f *fields) int(name string) int64 {
	v, err := f.o.Int(name)
	f.note(err)
	return v
}

func (f *fields) bool(name string) bool {
	v, err := f.o.Bool(name)
	f.note(err)
	return v
}

func (f *fields) texts(name string) []string {
	v, err := f.o.Strings(name)
	f.note(err)
	return v
}

func (f *fields) object(name string) fields {
	v, err := f.o.Object(name)
	f.note(err)
	return fields{o: v}
}

func decodeOurs(t *texts) (*message, error) {
	m := new(message)
	h := parse(t[0])
	m.header.HeaderData = h.binary("headerdata")
	m.header.Signature = h.binary("signature")
	tok := h.object("mastertoken")
	m.header.MasterToken = json.RawMessage(tok.o.Encoding())
	m.token.TokenData = tok.binary("tokendata")
	m.token.Signature = tok.binary("signature")
	d := parse(t[1])
	m.tokenData.RenewalWindow = d.int("renewalwindow")
	m.tokenData.Expiration = d.int("expiration")
	m.tokenData.SequenceNumber = d.int("sequencenumber")
	m.tokenData.SerialNumber = d.int("serialnumber")
	m.tokenData.SessionData = d.binary("sessiondata")
	err1 := decodeEnvelope(t[2], &m.headerSealed)
	hd := parse(t[3])
	m.headerData.Sender = hd.text("sender")
	m.headerData.MessageID = hd.int("messageid")
	m.headerData.Timestamp = hd.int("timestamp")
	m.headerData.NonReplayable = hd.bool("nonreplayable")
	m.headerData.Renewable = hd.bool("renewable")
	m.headerData.Handshake = hd.bool("handshake")
	c := hd.object("capabilities")
	m.headerData.Capabilities.CompressionAlgos = c.texts("compressionalgos")
	m.headerData.Capabilities.Languages = c.texts("languages")
	m.headerData.Capabilities.EncoderFormats = c.texts("encoderformats")
	p := parse(t[4])
	m.payload.Payload = p.binary("payload")
	m.payload.Signature = p.binary("signature")
	err2 := decodeEnvelope(t[5], &m.chunkSealed)
	k := parse(t[6])
	m.chunk.SequenceNumber = k.int("sequencenumber")
	m.chunk.MessageID = k.int("messageid")
	m.chunk.EndOfMessage = k.bool("endofmsg")
	m.chunk.Data = k.binary("data")
	return m, errors.Join(h.err, tok.err, d.err, err1, hd.err, c.err, p.err, err2, k.err)
}

func decodeEnvelope(b []byte, e *envelope) error {
	f := parse(b)
	e.KeyID = f.text("keyid")
	e.IV = f.binary("iv")
	e.Ciphertext = f.binary("ciphertext")
	e.SHA256 = f.binary("sha256")
	return f.err
}

func encodeOurs(m *message) (t texts) {
	var h, hd, c, p, k mslenc.Builder
	h.Object("mastertoken", m.header.MasterToken)
	h.Binary("headerdata", m.header.HeaderData)
	h.Binary("signature", m.header.Signature)
	c.Strings("compressionalgos", m.headerData.Capabilities.CompressionAlgos)
	c.Strings("languages", m.headerData.Capabilities.Languages)
	c.Strings("encoderformats", m.headerData.Capabilities.EncoderFormats)
	hd.String("sender", m.headerData.Sender)
	hd.Int("messageid", m.headerData.MessageID)
	hd.Int("timestamp", m.headerData.Timestamp)
	hd.Bool("nonreplayable", m.headerData.NonReplayable)
	hd.Bool("renewable", m.headerData.Renewable)
	hd.Bool("handshake", m.headerData.Handshake)
	hd.Object("capabilities", c.Bytes())
	p.Binary("payload", m.payload.Payload)
	p.Binary("signature", m.payload.Signature)
	k.Int("sequencenumber", m.chunk.SequenceNumber)
	k.Int("messageid", m.chunk.MessageID)
	k.Bool("endofmsg", m.chunk.EndOfMessage)
	k.Binary("data", m.chunk.Data)
	return texts{h.Bytes(), nil, encodeEnvelope(&m.headerSealed), hd.Bytes(), p.Bytes(), encodeEnvelope(&m.chunkSealed), k.Bytes()}
}

func encodeEnvelope(e *envelope) []byte {
	var b mslenc.Builder
	b.String("keyid", e.KeyID)
	b.Binary("iv", e.IV)
	b.Binary("ciphertext", e.Ciphertext)
	b.Binary("sha256", e.SHA256)
	return b.Bytes()
}
