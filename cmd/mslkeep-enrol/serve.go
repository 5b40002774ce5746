// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/mslkeep/mslkeep/tpm/enrol"
)

// Limits of the HTTP server. What it gets and says is short.
const (
	requestTime  = 10 * time.Second
	idleTime     = 30 * time.Second
	shutdownTime = 5 * time.Second
	maxHeader    = 8 << 10 // bytes
	maxConns     = 256
)

// serve answers devices until it is told to stop.
func serve(ctx context.Context, out, said io.Writer, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8090", "`address` to listen on")
	roots := flags.String("roots", "", "PEM `file` with the makers' certificates, to which those of endorsement keys must lead")
	intermediates := flags.String("intermediates", "", "PEM `file` with certificates by way of which they may do so")
	c := enrol.Config{Log: slog.New(slog.NewTextHandler(said, nil))}
	flags.StringVar(&c.Devices, "devices", "", "`folder` for the public keys of devices")
	flags.StringVar(&c.Endorsements, "endorsement-keys", "", "`file` with the list of endorsement keys")
	flags.StringVar(&c.Identities, "identities", "", "`pattern` of the identities to enrol, as in sensor-* (default: any)")
	flags.BoolVar(&c.Replace, "replace", false, "let an identity that is enrolled have another key")
	if err := parse(out, flags, serveUsage, args); err != nil {
		return err
	}
	if c.Devices == "" || c.Endorsements == "" && *roots == "" {
		return usageError{errors.New("--devices and one of --endorsement-keys and --roots are needed; --help explains")}
	}
	var err error
	if c.Roots, err = certificates(*roots); err != nil {
		return err
	}
	if c.Intermediates, err = certificates(*intermediates); err != nil {
		return err
	}
	s, err := enrol.NewServer(c)
	if err != nil {
		return err
	}
	defer s.Close()
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "enrolling at http://%s/\n", l.Addr()); err != nil {
		l.Close()
		return err
	}
	return answer(ctx, l, s, c.Log)
}

// answer runs the HTTP server.
func answer(ctx context.Context, l net.Listener, s http.Handler, log *slog.Logger) error {
	var open atomic.Int32
	limit := func(c net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			if open.Add(1) > maxConns {
				c.Close()
			}
		case http.StateClosed:
			open.Add(-1)
		}
	}
	server := &http.Server{Handler: s, ConnState: limit, ReadTimeout: requestTime, WriteTimeout: requestTime, IdleTimeout: idleTime,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	return server.Shutdown(last)
}

// certificates reads all certificates of a PEM file; nil if there is no file.
func certificates(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool, empty := x509.NewCertPool(), true
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: something else than certificates", path)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		pool.AddCert(c)
		empty = false
	}
	if empty {
		return nil, fmt.Errorf("%s: no certificate", path)
	}
	return pool, nil
}
