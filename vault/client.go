// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mslkeep/mslkeep/internal/secretfile"
)

const (
	maxAnswer = 32 << 20 // bytes
	maxPEM    = 1 << 20  // bytes of a file of certificates
	maxIdle   = 32       // connections
	tlsTime   = 2 * time.Second
)

// A client talks to one Vault. It has no token of its own.
type client struct {
	api       *api.Client
	transport *http.Transport
	files     *tlsFiles
	timeout   time.Duration
	requests  counter
}

// newClient makes a client. Nothing of it comes from the environment.
func newClient(c *Config) (*client, error) {
	files := &tlsFiles{ca: c.CA, serverName: c.ServerName, certificate: c.Auth.Certificate, key: c.Auth.Key}
	if _, err := files.current(); err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: time.Duration(c.Timeout)}).DialContext,
		DialTLSContext:      files.dial,
		MaxIdleConns:        maxIdle,
		MaxIdleConnsPerHost: maxIdle,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	conf := &api.Config{Address: c.Address, HttpClient: &http.Client{Transport: bounded{transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	a, err := api.NewClient(conf)
	if err != nil {
		return nil, errors.New("the address or the environment is not what Vault's client takes")
	}
	if err := a.SetAddress(c.Address); err != nil {
		return nil, errors.New("the address is not what Vault's client takes")
	}
	a.ClearToken()
	a.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	a.ClearNamespace()
	if c.Namespace != "" {
		a.SetNamespace(c.Namespace)
	}
	a.SetMaxRetries(0)
	a.SetClientTimeout(0)
	return &client{api: a, transport: transport, files: files, timeout: time.Duration(c.Timeout)}, nil
}

// bounded limits the size of answers.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, maxAnswer), response.Body}
	}
	return response, err
}

// tlsFiles are the files that TLS is configured by. They are read again when they change, so that
// certificates can be replaced while the process runs.
type tlsFiles struct {
	ca, serverName   string
	certificate, key string // key is a reference

	mu     sync.Mutex
	stamps [3]stamp
	config *tls.Config
}

// A stamp tells whether a file is another one than before.
type stamp struct {
	size int64
	time time.Time
	file os.FileInfo
}

func (s stamp) same(o stamp) bool {
	return s.size == o.size && s.time.Equal(o.time) && (s.file == nil) == (o.file == nil) && (s.file == nil || os.SameFile(s.file, o.file))
}

func stampOf(path string) stamp {
	if path == "" {
		return stamp{}
	}
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.Size(), info.ModTime(), info}
}

// current returns the configuration of TLS. If new files are no good, the old ones stay in force until
// they are: whoever replaces two files is done with one before the other.
func (f *tlsFiles) current() (*tls.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keyPath, _ := secretfile.Path(f.key)
	stamps := [3]stamp{stampOf(f.ca), stampOf(f.certificate), stampOf(keyPath)}
	if f.config != nil && f.unchanged(stamps) {
		return f.config, nil
	}
	config, err := f.read()
	if err != nil {
		if f.config != nil {
			return f.config, nil
		}
		return nil, err
	}
	f.config, f.stamps = config, stamps
	return config, nil
}

func (f *tlsFiles) unchanged(stamps [3]stamp) bool {
	for i := range stamps {
		if !stamps[i].same(f.stamps[i]) {
			return false
		}
	}
	return true
}

// changed reports whether files are others than those in force.
func (f *tlsFiles) changed() bool {
	f.mu.Lock()
	before := f.config
	f.mu.Unlock()
	now, err := f.current()
	return err == nil && now != before
}

func (f *tlsFiles) read() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.serverName}
	if f.ca != "" {
		pem, err := readSmall(f.ca, maxPEM)
		if err != nil {
			return nil, fmt.Errorf("reading ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("reading ca: there is no certificate in PEM in it")
		}
	}
	if f.certificate == "" {
		return config, nil
	}
	certificate, err := readSmall(f.certificate, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("reading auth.certificate: %w", err)
	}
	pair, err := readPair(certificate, f.key)
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// readSmall reads a file that is not secret.
func readSmall(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > limit {
		return nil, errors.New("not a regular file, or too large")
	}
	return io.ReadAll(io.LimitReader(file, limit))
}

// dial connects by TLS with the files as they are now.
func (f *tlsFiles) dial(ctx context.Context, network, address string) (net.Conn, error) {
	config, err := f.current()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, tlsTime)
	defer cancel()
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		config = config.Clone()
		config.ServerName = host
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
	return conn, err
}

// bare asks for what needs no token. The answer is not in the usual envelope.
func (c *client) bare(ctx context.Context, q request, out any) error {
	raw, err := c.api.Logical().ReadRawWithContext(ctx, q.path)
	if raw == nil || raw.Response == nil {
		return unreached(ctx, err)
	}
	defer raw.Body.Close()
	if err != nil || raw.StatusCode != http.StatusOK {
		return &refusal{status: raw.StatusCode}
	}
	if json.NewDecoder(raw.Body).Decode(out) != nil {
		return errAnswer
	}
	return nil
}
