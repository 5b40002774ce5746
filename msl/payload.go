// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import "github.com/mslkeep/mslkeep/internal/mslenc"

// A payload is one chunk of application data (§4.7).
type payload struct {
	Sequence    int64 // 1 for the first chunk
	MessageID   int64
	End         bool   // the last one of its message
	Compression string // of Data on the wire; "" for none
	Data        []byte // as on the wire when encoding, uncompressed when parsed
}

// compress compresses the data with the algorithm that p names, if that makes it shorter.
func (p *payload) compress() {
	if c := compress(p.Compression, p.Data); c != nil {
		p.Data = c
	} else {
		p.Compression = ""
	}
}

// size returns how long the encoding is, rather too much.
func (p *payload) size() int { return len(p.Data)/3*4 + 256 }

// append appends the encoding to dst.
func (p *payload) append(dst []byte) []byte {
	var b mslenc.Builder
	b.After(dst)
	b.Binary("data", p.Data)
	b.Int("sequencenumber", p.Sequence)
	b.Int("messageid", p.MessageID)
	if p.End {
		b.Bool("endofmsg", true)
	}
	if p.Compression != "" {
		b.String("compressionalgo", p.Compression)
	}
	return b.Bytes()
}

// smallPayload is how much memory an encoding may have whose data takes its place. Larger memory is given back, so nothing
// may stay there: what counts is its capacity, which can be far more than the encoding.
const smallPayload = 8 << 10

// parsePayload reads a decrypted payload in the order of §4.7. Data has at most inflate bytes if it was
// compressed. If plain has little memory, Data may be there.
func parsePayload(plain []byte, inflate int) (*payload, error) {
	var mem *mslenc.Arena
	if cap(plain) <= smallPayload {
		mem = arenas.Get().(*mslenc.Arena)
		defer giveBack(mem)
	}
	f := parseFieldsIn(mem, plain, "payload", MSLParseError)
	p := &payload{}
	p.Sequence = f.id("sequencenumber", PayloadSequenceNumberOutOfRange)
	p.MessageID = f.id("messageid", PayloadMessageIDOutOfRange)
	if f.has("endofmsg") {
		p.End = f.boolean("endofmsg")
	}
	p.Compression = f.compression("compressionalgo")
	p.Data = f.binaryIn(mem, "data")
	if f.err == nil && len(p.Data) == 0 && !p.End {
		f.refuse(PayloadDataMissing, "data")
	}
	if f.err != nil {
		return nil, f.err
	}
	var err error
	switch {
	case p.Compression != "" && len(p.Data) > 0:
		p.Data, err = uncompress(p.Compression, p.Data, inflate)
	case mem != nil:
		p.Data = append(plain[:0], p.Data...) // which is shorter than what it was decoded from
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// chunkSize returns how long a sealed payload is as it travels, rather too much.
func chunkSize(p Part) int { return len(p.Data)/3*4 + 128 }

// appendChunk appends a sealed payload as it travels.
func appendChunk(dst []byte, p Part) []byte {
	var b mslenc.Builder
	b.After(dst)
	b.Binary("payload", p.Data)
	b.Binary("signature", p.Signature)
	return b.Bytes()
}

// parseChunk undoes appendChunk, into memory of mem. limit bounds the bytes of the whole object.
func parseChunk(mem *mslenc.Arena, o mslenc.Object, limit int) (Part, error) {
	if len(o.Encoding()) > limit {
		return Part{}, fail(MSLParseError, "payload chunk", mslenc.ErrLimit)
	}
	f := fields{obj: o, what: "payload chunk", code: MSLParseError}
	p := Part{Data: f.binaryIn(mem, "payload"), Signature: f.binaryIn(mem, "signature")}
	return p, f.err
}
