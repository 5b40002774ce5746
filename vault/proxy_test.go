// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

// A proxy stands between a provider and the real Vault. It counts requests, and can answer in Vault's place, or
// be slow.
type proxy struct {
	*httptest.Server
	requests atomic.Int64

	mu     sync.Mutex
	status int           // answered in Vault's place; 0: none
	times  int           // how often; -1: always
	delay  time.Duration // before a request is passed on
	only   string        // part of the paths that this is for; empty: all
	seen   []string      // methods and paths
}

func newProxy(t testing.TB, v *vaulttest.Server) *proxy {
	t.Helper()
	target, err := url.Parse(v.Address)
	if err != nil {
		t.Fatal(err)
	}
	p := new(proxy)
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	forward.Transport = &http.Transport{MaxIdleConnsPerHost: 64}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.requests.Add(1)
		status, delay := p.next(r)
		if delay > 0 {
			body, _ := io.ReadAll(r.Body) // or the end of the connection is not noticed
			r.Body = io.NopCloser(bytes.NewReader(body))
			select {
			case <-time.After(delay):
			case <-r.Context().Done():
				return
			}
		}
		if status != 0 {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"errors":["in Vault's place"]}`)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) next(r *http.Request) (status int, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v1/"))
	if !strings.Contains(r.URL.Path, p.only) || p.times == 0 {
		return 0, 0
	}
	if p.times > 0 {
		p.times--
	}
	return p.status, p.delay
}

// answers makes the proxy answer some requests in Vault's place; -1 times is always.
func (p *proxy) answers(status, times int, only string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.times, p.delay, p.only, p.seen = status, times, 0, only, nil
}

// delays makes the proxy slow.
func (p *proxy) delays(d time.Duration, only string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.times, p.delay, p.only = 0, -1, d, only
}

func (p *proxy) count(part string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seen {
		if strings.Contains(s, part) {
			n++
		}
	}
	return n
}

// hcl is a policy of rules.
func hcl(lines ...string) string {
	var b strings.Builder
	for _, l := range lines {
		path, capabilities, _ := strings.Cut(l, " ")
		fmt.Fprintf(&b, "path %q { capabilities = [\"%s\"] }\n", path, strings.ReplaceAll(capabilities, " ", `", "`))
	}
	return b.String()
}
