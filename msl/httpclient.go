// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"fmt"
	"net/http"
)

// A RoundTripper sends the bodies of HTTP requests as application data of messages, so that code which
// has an http.Client can talk to an MSL peer. MSL carries a body and nothing else: only POST is accepted, and
// the URL and the headers of a request stay behind. A response has status 200, or there is an error.
type RoundTripper struct {
	Client *Client
	// Request is the pattern for messages; its Body and Stream are ignored.
	Request Request
}

// RoundTrip sends r's body and returns the answer's data as the body of the response.
func (t *RoundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, fmt.Errorf("msl: a %s request cannot be a message, only POST", r.Method)
	}
	message := t.Request
	message.Stream = nil
	message.Body = nil
	if r.Body != nil {
		message.Body = r.Body
	}
	answer, err := t.Client.Do(r.Context(), &message)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: answerBody{answer}, ContentLength: -1, Request: r,
	}, nil
}

// answerBody reads the data of a response.
type answerBody struct{ *Response }
