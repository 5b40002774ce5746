// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import "context"

// Send sends a message that the peer does not answer (§8.1). It returns when all of it was handed to the
// transport; whether it arrived, and was accepted, remains unknown. Where it needs tokens first it gets them in
// messages that are answered, as Do does; it renews none on the way.
func (c *Client) Send(ctx context.Context, r *Request) error {
	ctx, x := c.exchange(ctx, r)
	x.oneWay = true
	_, err := x.run(ctx)
	if err != nil {
		x.complain(ctx, err)
	}
	x.close()
	return err
}

// sent waits until the data of a one-way message was sent. A transport that has an answer at the end anyway
// may bring an error message, which is returned.
func (x *exchange) sent(ctx context.Context, h *headerData) (*Message, error) {
	if x.writing != nil {
		err := <-x.writing
		x.writing = nil
		if err != nil {
			return nil, err
		}
	}
	t, ok := x.transport.(interface{ finished() error })
	if !ok {
		return nil, nil
	}
	if err := t.finished(); err != nil {
		return nil, err
	}
	if m, err := x.receive(ctx, h); err == nil && m.Err != nil {
		return m, nil
	}
	return nil, nil // nobody waits for anything else that it may say
}

// Next waits for the next message that the peer pushes in answer to the same request (§8.6), and makes it the
// Message of r. Data of the one before that was not read is dropped. The error is io.EOF if there is none. As
// for AcceptPush, the peer sent the message once, but perhaps not now.
func (r *Response) Next(ctx context.Context) error {
	x, d := r.exchange, r.decoder
	if x.transport == nil {
		return errClosed
	}
	defer context.AfterFunc(ctx, x.cancel)()
	r.Message.finish(errClosed)
	r.Message.rest = nil
	if err := findHeader(d); err != nil {
		return err
	}
	o := x.opener()
	m, err := o.open(ctx, d)
	if err != nil {
		return err
	}
	if m.Err != nil {
		return m.Err
	}
	if err := x.checkProtection(m); err != nil {
		return err
	}
	if err := checkPushed(m, r.UserIDToken); err != nil {
		return err
	}
	x.client.noteTime(m)
	x.keep(ctx, m, true)
	r.Message = m
	return nil
}
