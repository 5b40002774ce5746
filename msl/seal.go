// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"context"
	"io"
)

// A job is what one seal call covers: a payload, or with no payload only the header. The header goes
// with the first job.
type job struct {
	payload *payload // with its data not yet compressed
	header  []byte   // plain header data, if it was not sealed before
}

// chunk takes the buffered data as the next payload.
func (w *MessageWriter) chunk(end bool) job {
	p := &payload{Sequence: w.sequence, MessageID: w.m.header.MessageID, End: end, Compression: w.m.compression, Data: w.buf}
	w.sequence = addID(w.sequence, 1)
	w.buf, w.spare = w.spare[:0], nil
	return job{payload: p}
}

// start begins to seal, after making room among the jobs in flight. A job that is alone, and has no other to
// wait for, is done at once; others run beside the caller.
func (w *MessageWriter) start(j job) {
	if w.err != nil {
		return
	}
	j.header, w.plainHeader = w.plainHeader, nil
	for len(w.inFlight) == maxInFlight || len(w.inFlight) > 0 && len(w.inFlight[0]) > 0 { // or is done
		w.writeOldest()
		if w.err != nil {
			return
		}
	}
	if len(w.inFlight) == 0 && (j.payload == nil || j.payload.End || len(j.payload.Data) < w.m.chunkSize) {
		w.write(w.seal(j)) // is alone
		return
	}
	done := make(chan sealed, 1)
	w.inFlight = append(w.inFlight, done)
	if w.cancel == nil {
		w.ctx, w.cancel = context.WithCancel(w.ctx)
	}
	go func() { done <- w.seal(j) }()
}

// finish writes everything that is in flight.
func (w *MessageWriter) finish() {
	for len(w.inFlight) > 0 && w.err == nil {
		w.writeOldest()
	}
}

func (w *MessageWriter) writeOldest() {
	s := <-w.inFlight[0]
	w.inFlight = w.inFlight[1:]
	w.write(s)
}

// write gives what was sealed to the connection.
func (w *MessageWriter) write(s sealed) {
	w.spare = s.spare
	if s.err == nil {
		s.err = sendError(give(w.out, s.encoded))
	}
	w.fail(s.err)
}

// give writes p to w, which may keep it if it says so.
func give(w io.Writer, p []byte) error {
	if k, ok := w.(interface{ keep([]byte) error }); ok {
		return k.keep(p)
	}
	_, err := w.Write(p)
	recycle(p)
	return err
}

// seal protects a job and returns its encoding. It reads nothing of w that changes.
func (w *MessageWriter) seal(j job) (s sealed) {
	plain := make([][]byte, 0, 2)
	if j.header != nil {
		plain = append(plain, j.header)
	}
	if j.payload != nil {
		s.spare = j.payload.Data
		j.payload.compress()
		plain = append(plain, j.payload.append(buffer(j.payload.size())))
	}
	defer wipe(plain)
	var parts []Part
	if j.header != nil && !w.oneContext {
		parts, s.err = w.protect(w.m.headerContext, nil, plain[:1])
		plain = plain[1:]
	}
	buf := buffer(sealedSize(plain))
	if s.err == nil {
		var more []Part
		if more, s.err = w.protect(w.m.payloadContext, buf, plain); parts == nil {
			parts = more
		} else {
			parts = append(parts, more...)
		}
	}
	if s.err != nil {
		return s
	}
	s.encoded = w.encode(parts, j.header != nil)
	if j.payload != nil {
		recyclePart(w.m.payloadContext, parts[len(parts)-1].Data)
	}
	recycle(buf)
	return s
}

// sealedSize returns how much memory sealed parts take, rather too much, or 0 if it is worth none of ours.
func sealedSize(plain [][]byte) (n int) {
	for _, p := range plain {
		n += len(p)/3*4 + 512
	}
	if n > maxBuffered/4 {
		return 0
	}
	return n
}

// encode returns sealed parts as they travel; the first may be the header.
func (w *MessageWriter) encode(parts []Part, header bool) []byte {
	outer, size := w.m.outer, 0
	if header {
		outer.part, parts = parts[0], parts[1:]
		size = outer.size()
	}
	for _, p := range parts {
		size += chunkSize(p)
	}
	encoded := buffer(size)
	if header {
		encoded = outer.append(encoded)
	}
	for _, p := range parts {
		encoded = appendChunk(encoded, p)
	}
	return encoded
}

// wipe clears what was sealed, which may hold a password, and gives its memory back.
func wipe(plain [][]byte) {
	for _, b := range plain {
		clear(b)
		recycle(b)
	}
}

// protect seals parts, of which there may be none, perhaps into buf.
func (w *MessageWriter) protect(c CryptoContext, buf []byte, plain [][]byte) ([]Part, error) {
	if len(plain) == 0 {
		return nil, nil
	}
	parts, err := sealInto(w.ctx, c, buf, plain)
	if err != nil {
		return nil, custodyError(err, InternalException, "sealing a message")
	}
	if len(parts) != len(plain) {
		return nil, fail(InternalException, "sealing a message", nil)
	}
	return parts, nil
}
