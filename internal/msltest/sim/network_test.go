// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/mslkeep/mslkeep/internal/mslenc"
	"github.com/mslkeep/mslkeep/msl"
)

// A post carries one message at a time, as HTTP does.
type post struct {
	server *server
}

// Open is as msl.Transport wants it.
func (p *post) Open(ctx context.Context) (msl.Exchange, error) {
	return &posted{post: p, ctx: ctx, label: labelOf(ctx), done: make(chan struct{}), closed: make(chan struct{})}, nil
}

type posted struct {
	post    *post
	ctx     context.Context
	label   string
	request bytes.Buffer

	done     chan struct{} // closed when there is an answer
	response *bytes.Reader
	err      error // after the response

	closing sync.Once
	closed  chan struct{}
}

func (x *posted) Write(p []byte) (int, error) { return x.request.Write(p) }
func (x *posted) Flush() error                { return nil }

// Close ends a Read that waits. Others may go on before whoever closes it.
func (x *posted) Close() error {
	x.closing.Do(func() { close(x.closed) })
	x.post.server.sim.wait(x.label+" close", atClose)
	return nil
}

func (x *posted) Read(p []byte) (int, error) {
	select {
	case <-x.done:
		n, err := x.response.Read(p)
		if err == io.EOF && x.err != nil {
			err = x.err
		}
		return n, err
	case <-x.ctx.Done():
		return 0, x.ctx.Err()
	case <-x.closed:
		return 0, net.ErrClosed
	}
}

// CloseWrite sends the request on its way.
func (x *posted) CloseWrite() error {
	v := x.post.server
	f := v.sim.wait(x.label+" request", atRequest)
	request := bytes.Clone(x.request.Bytes())
	v.sim.inspect(request)
	v.mu.Lock()
	remember(&v.requests, request)
	v.mu.Unlock()
	switch f.what {
	case failure:
		return &errSimulated{"sending"}
	case loss:
		x.end(nil, &errSimulated{"receiving"})
		return nil
	case cut:
		request = request[:int(f.where*float64(len(request)))]
	case corrupted:
		request = changed(request, f)
	case misled:
		servers := v.sim.servers
		v = servers[f.which%uint64(len(servers))]
	case repeated:
		v.sim.conns.Go(func() { v.answer(x.label+" again", request) })
	}
	if v.config.PeerToPeer {
		x.end(nil, &errSimulated{"receiving"})
		return nil
	}
	v.sim.conns.Go(func() {
		response := v.answer(x.label+" server", request)
		v.sim.inspect(response)
		x.arrive(v, response)
	})
	return nil
}

// arrive brings the answer, or what becomes of it.
func (x *posted) arrive(v *server, response []byte) {
	f := v.sim.wait(x.label+" response", atResponse)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch f.what {
	case loss:
		x.end(nil, &errSimulated{"receiving"})
	case cut:
		x.end(response[:int(f.where*float64(len(response)))], nil)
	case corrupted:
		x.end(changed(response, f), nil)
	case replaced:
		if len(v.answers) > 0 {
			response = v.answers[f.which%uint64(len(v.answers))]
		}
		x.end(response, nil)
	default:
		remember(&v.answers, response)
		x.end(response, nil)
	}
}

func (x *posted) end(response []byte, err error) {
	x.response, x.err = bytes.NewReader(response), err
	close(x.done)
}

// changed returns b with one byte changed.
func changed(b []byte, f fate) []byte {
	if len(b) == 0 {
		return b
	}
	b = slices.Clone(b)
	b[int(f.where*float64(len(b)))] ^= byte(1 << (f.which % 8))
	return b
}

// inspect looks at messages as the network sees them: nothing that is secret may be readable.
func (s *simulation) inspect(messages []byte) {
	d := mslenc.NewBytesDecoder(messages, mslenc.Limits{})
	for {
		o, err := d.Next()
		if err != nil {
			return
		}
		for _, name := range []string{"headerdata", "payload", "errordata"} {
			if b, err := o.Binary(name); err == nil && readable(b, 0) {
				s.broken("the network can read %s: %.200q", name, b)
			}
		}
	}
}

var secrets = [][]byte{[]byte("secret!"), []byte("password!"), []byte("token!")}

// readable tells whether there is a secret in b, or in what is encoded in it.
func readable(b []byte, depth int) bool {
	for _, s := range secrets {
		if bytes.Contains(b, s) {
			return true
		}
	}
	o, err := mslenc.Parse(b)
	if err != nil || depth > 3 {
		return false
	}
	for _, name := range []string{"data", "tokendata", "servicedata"} {
		if inner, err := o.Binary(name); err == nil && readable(inner, depth+1) {
			return true
		}
	}
	if tokens, err := o.Objects("servicetokens"); err == nil {
		for _, t := range tokens {
			if readable(t.Encoding(), depth+1) {
				return true
			}
		}
	}
	return false
}
