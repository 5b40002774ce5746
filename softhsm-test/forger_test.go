// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"testing"

	"github.com/mslkeep/mslkeep/msl"
)

// recorded is a message that somebody sent under a session.
type recorded struct {
	http http.RoundTripper
	body []byte
}

// RoundTrip keeps what it sends.
func (r *recorded) RoundTrip(req *http.Request) (*http.Response, error) {
	var err error
	if r.body, err = io.ReadAll(req.Body); err != nil {
		return nil, err
	}
	again := req.Clone(req.Context())
	again.Body = io.NopCloser(bytes.NewReader(r.body))
	return r.http.RoundTrip(again)
}

// record makes a session and keeps its second message.
func (f *fleet) record(t *testing.T) *recorded {
	t.Helper()
	r := &recorded{http: f.http}
	c := f.through(t, &msl.HTTPTransport{URL: f.url, RoundTripper: r})
	defer c.Close()
	for range 2 {
		if err := say(t.Context(), c, []byte("recorded")); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// post posts a message, and returns the answer.
func (f *fleet) post(body []byte) ([]byte, error) {
	resp, err := (&http.Client{Transport: f.http}).Post(f.url, "text/plain", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// forgeries changes the message in ways of which each must be noticed: by the HSM, but for the last two.
func (r *recorded) forgeries(t *testing.T) (forged [][]byte) {
	t.Helper()
	sequence := regexp.MustCompile(`"sequencenumber":\d+`)
	expiration := regexp.MustCompile(`"expiration":\d+`)
	for _, forge := range []func(header, token map[string]any){
		func(_, token map[string]any) { token["signature"] = changed(token["signature"], flip) },
		func(_, token map[string]any) {
			token["tokendata"] = changed(token["tokendata"], func(b []byte) []byte { return sequence.ReplaceAll(b, []byte(`"sequencenumber":7777`)) })
		},
		func(_, token map[string]any) {
			token["tokendata"] = changed(token["tokendata"], func(b []byte) []byte { return expiration.ReplaceAll(b, []byte(`"expiration":99999999999`)) })
		},
		func(_, token map[string]any) { token["signature"] = "" },
		func(header, _ map[string]any) { header["signature"] = changed(header["signature"], flip) },
		func(header, _ map[string]any) { header["headerdata"] = changed(header["headerdata"], flip) },
	} {
		d := json.NewDecoder(bytes.NewReader(r.body))
		var header map[string]any
		if err := d.Decode(&header); err != nil {
			t.Errorf("reading a recorded message: %v", err)
			return nil
		}
		token, _ := header["mastertoken"].(map[string]any)
		if token == nil {
			t.Error("a recorded message has no master token")
			return nil
		}
		forge(header, token)
		b, err := json.Marshal(header)
		if err != nil {
			t.Error(err)
		}
		forged = append(forged, append(b, r.body[d.InputOffset():]...))
	}
	return forged
}

func flip(b []byte) []byte {
	b[len(b)/2] ^= 1
	return b
}

// changed changes what base64 says.
func changed(text any, change func([]byte) []byte) string {
	b, err := base64.StdEncoding.DecodeString(text.(string))
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(change(b))
}
