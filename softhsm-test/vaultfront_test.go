// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/mslkeep/mslkeep/agent"
)

// A front stands between a provider and the real Vault. It counts requests, and can be busy or slow in Vault's place. If
// Vault does not answer, it hangs up.
type front struct {
	*httptest.Server
	requests atomic.Int64
	status   atomic.Int64 // answered to everything; 0: Vault answers
	slow     atomic.Bool  // nothing is answered
}

func newFront(tb testing.TB, address string) *front {
	tb.Helper()
	to, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	f := new(front)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, Transport: &http.Transport{MaxIdleConnsPerHost: 64},
		ErrorLog:     log.New(io.Discard, "", 0), // of connections that tests break
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.requests.Add(1)
		if f.slow.Load() {
			_, _ = io.Copy(new(bytes.Buffer), r.Body) // or the end of the connection is not noticed
			<-r.Context().Done()
			return
		}
		if status := f.status.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	tb.Cleanup(f.Close)
	return f
}

// givesKeys gives the senders' agent the key that all of them have, and returns it.
func (f *deployment) givesKeys(senders int, identity func(sender int) string) (key string) {
	f.t.Helper()
	path := tool(f.t, "mslkeep-agent")
	device, err := agent.Start(f.t.Context(), agent.Config{Path: path, SHA256: sum(f.t, path), Args: []string{"--config", f.path("device/agent.toml"), "--manage"}})
	if err != nil {
		f.t.Fatal(err)
	}
	defer device.Close()
	raw := make([]byte, 48)
	rand.Read(raw)
	key = hex.EncodeToString(raw)
	write(f.t, f.path("psk"), key)
	for i := range senders {
		if _, err := device.ImportKey(f.t.Context(), "psk/"+identity(i), "keyset", f.path("psk"), "hex"); err != nil {
			f.t.Fatal(err)
		}
	}
	return key
}
