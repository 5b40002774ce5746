// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/msl/websocket"
)

// An endpoint is where messages go, or come from.
type endpoint struct {
	scheme  string // http, https, h2c, ws, wss, tcp, tls or unix
	address string // HOST:PORT, or a path
	url     string
}

// parseEndpoint parses scheme://HOST:PORT, unix:PATH, or HOST:PORT, which means HTTP.
func parseEndpoint(text string) (endpoint, error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return endpoint{}, fmt.Errorf("%s names no path", text)
		}
		return endpoint{"unix", path, text}, nil
	}
	if !strings.Contains(text, "://") {
		return endpoint{"http", text, "http://" + text + "/"}, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return endpoint{}, fmt.Errorf("%q is not a URL", text)
	}
	e := endpoint{u.Scheme, u.Host, text}
	switch e.scheme {
	case "http", "https", "h2c", "ws", "wss":
	case "tcp", "tls":
		if u.Path != "" && u.Path != "/" {
			err = fmt.Errorf("%s has a path, which is nowhere to be sent", text)
		}
	default:
		err = fmt.Errorf("%s begins with none of http, https, h2c, ws, wss, tcp, tls and unix", text)
	}
	if err == nil && e.address == "" {
		err = fmt.Errorf("%s names no host", text)
	}
	return e, err
}

// isHTTP tells whether each message is a request of its own.
func (e endpoint) isHTTP() bool {
	return e.scheme == "http" || e.scheme == "https" || e.scheme == "h2c"
}

// errOnlyStreams is said of HTTP in a peer-to-peer network.
var errOnlyStreams = configError(errors.New("HTTP cannot carry messages between peers"), "use ws://HOST:PORT, tcp://HOST:PORT or unix:PATH")

// transport returns what leads to the peer of send.
func (c *config) transport() (msl.Transport, error) {
	e, err := parseEndpoint(c.Send.URL)
	if err != nil {
		return nil, configError(err, "see mslkeep send --example")
	}
	if c.MSL.PeerToPeer && e.isHTTP() {
		return nil, errOnlyStreams
	}
	tlsConfig, err := c.tls()
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	dial := dialer.DialContext
	switch e.scheme {
	case "h2c":
		return &msl.HTTPTransport{URL: "http" + strings.TrimPrefix(e.url, "h2c"), RoundTripper: newHTTPClient("h2c", nil).Transport}, nil
	case "http", "https":
		return &msl.HTTPTransport{URL: e.url, RoundTripper: newHTTPClient(e.scheme, tlsConfig).Transport}, nil
	case "ws", "wss":
		d := &websocket.Dialer{URL: e.url, Client: newHTTPClient("ws", tlsConfig)}
		return &msl.StreamTransport{Dial: d.Dial}, nil
	case "tls":
		dial = (&tls.Dialer{NetDialer: &dialer, Config: tlsConfig}).DialContext
		return streamTo(dial, "tcp", withPort(e.address, "443")), nil
	case "unix":
		return streamTo(dial, "unix", c.path(e.address)), nil
	}
	return streamTo(dial, "tcp", e.address), nil
}

func streamTo(dial func(ctx context.Context, network, address string) (net.Conn, error), network, address string) *msl.StreamTransport {
	return &msl.StreamTransport{Dial: func(ctx context.Context) (net.Conn, error) { return dial(ctx, network, address) }}
}

func withPort(address, port string) string {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return net.JoinHostPort(strings.Trim(address, "[]"), port)
	}
	return address
}

// tls returns how to know servers by their certificates: those of the system, or of the file. We show none of
// our own, since that would need a key.
func (c *config) tls() (*tls.Config, error) {
	if c.Send.TLSRoots == "" {
		return new(tls.Config), nil
	}
	text, err := os.ReadFile(c.path(c.Send.TLSRoots))
	roots := x509.NewCertPool()
	if err == nil && !roots.AppendCertsFromPEM(text) {
		err = fmt.Errorf("%s has no certificate", c.Send.TLSRoots)
	}
	if err != nil {
		return nil, configError(err, "tls-roots-file in [send] is a file of certificates in PEM")
	}
	return &tls.Config{RootCAs: roots}, nil
}

// newHTTPClient returns a client that keeps its connections, and reads and writes a usual message at once. With TLS it
// speaks HTTP/2 if the server does; without, it has to know, which is what h2c means.
func newHTTPClient(scheme string, c *tls.Config) *http.Client {
	var p http.Protocols
	p.SetHTTP1(scheme != "h2c")
	p.SetHTTP2(scheme == "https")
	p.SetUnencryptedHTTP2(scheme == "h2c")
	return &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1024, IdleConnTimeout: httpIdle, TLSClientConfig: c, Protocols: &p,
		DisableCompression: true, ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10,
	}}
}
