// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/tpm"
	"github.com/mslkeep/mslkeep/tpm/enrol"
)

const (
	postTime = 30 * time.Second
	openTime = time.Minute
)

// A pcrList is a flag: numbers with commas between them.
type pcrList []uint

func (l *pcrList) String() string { return "" }

func (l *pcrList) Set(text string) error {
	*l = nil
	for s := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseUint(s, 10, 8)
		if err != nil {
			return errors.New("numbers with commas between them")
		}
		*l = append(*l, uint(n))
	}
	return nil
}

// enrolDevice makes an identity key and has the server take it.
func enrolDevice(ctx context.Context, out, said io.Writer, args []string) error {
	flags := flag.NewFlagSet("enrol", flag.ContinueOnError)
	identity := flags.String("identity", "", "`name` of this device")
	server := flags.String("url", "", "`URL` of the enrolment server")
	kind := flags.String("type", string(providers.ECP256), "`type` of the identity key: ec-p256 or rsa-2048")
	var c tpm.Config
	flags.StringVar(&c.Folder, "keys", "", "`folder` of the keys, which is there already")
	flags.StringVar(&c.Device, "tpm", "", "`device`: /dev/tpmrm0 (default), /dev/tpm0, swtpm:unix:/PATH or swtpm:tcp:HOST:PORT")
	flags.StringVar(&c.AuthSource, "auth-source", "", "`reference` to the authorisation value of keys: file:/PATH or credential:NAME")
	flags.BoolVar(&c.AuthIsRandom, "auth-is-random", false, "that value cannot be guessed")
	flags.Var((*pcrList)(&c.PCRs), "pcrs", "`numbers` of the PCRs to which a new key is bound, as in 0,2,7")
	flags.StringVar(&c.PolicyKey, "policy-key", "", "PEM `file` with the public key of who approves of their values")
	flags.StringVar(&c.Approvals, "approvals", "", "`folder` with what was approved")
	if err := parse(out, flags, deviceUsage, args); err != nil {
		return err
	}
	prefix, ok := map[string]string{string(providers.ECP256): "ec/", string(providers.RSA2048): "rsa/"}[*kind]
	if !ok {
		return usageError{errors.New("--type is ec-p256 or rsa-2048")}
	}
	base, err := url.Parse(*server)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return usageError{errors.New("--url is http://HOST:PORT/; --help explains")}
	}
	if *identity == "" || c.Folder == "" {
		return usageError{errors.New("--identity and --keys are needed; --help explains")}
	}
	p, err := openTPM(ctx, c)
	if err != nil {
		return err
	}
	defer p.Close()
	d, err := newDevice(ctx, p, prefix+url.PathEscape(*identity), providers.KeyType(*kind))
	if err != nil {
		return err
	}
	// Elsewhere than where it was sent, what was said would not be the same.
	client := &http.Client{Timeout: postTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if err := enrol.Enrol(ctx, client, base, *identity, d); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "enrolled %q, with key %s\n", *identity, d.name)
	return err
}

func openTPM(ctx context.Context, c tpm.Config) (*tpm.Provider, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	return tpm.Open(ctx, c)
}

// A device is a TPM with an identity key. It implements enrol.Device.
type device struct {
	tpm  *tpm.Provider
	name string
	key  providers.Key
	area []byte
	kind providers.Mechanism

	made map[string]tpm.Endorsement // by the public area
}

// newDevice finds the newest version of a key, or makes the first.
func newDevice(ctx context.Context, p *tpm.Provider, name string, kind providers.KeyType) (*device, error) {
	d := &device{tpm: p, name: name, kind: providers.ECDSAP256, made: make(map[string]tpm.Endorsement)}
	if kind == providers.RSA2048 {
		d.kind = providers.RSAPKCS1
	}
	var err error
	d.key, err = p.Open(ctx, name, 0)
	if errors.Is(err, providers.NoSuchKey) {
		if _, err = p.Generate(ctx, name, kind); err == nil {
			d.key, err = p.Open(ctx, name, 0)
		}
	}
	if err != nil {
		return nil, err
	}
	d.area, err = p.PublicArea(name, d.key.Info().Version)
	return d, err
}

// Endorsements implements enrol.Device.
func (d *device) Endorsements(ctx context.Context) iter.Seq2[enrol.Endorsement, error] {
	return func(yield func(enrol.Endorsement, error) bool) {
		for e, err := range d.tpm.Endorsements(ctx) {
			d.made[string(e.Public)] = e
			if !yield(enrol.Endorsement{Name: e.Name, Public: e.Public, Certificate: e.Certificate}, err) {
				return
			}
		}
	}
}

// Key implements enrol.Device.
func (d *device) Key() []byte { return d.area }

// Activate implements enrol.Device.
func (d *device) Activate(ctx context.Context, e enrol.Endorsement, credential, encryptedSecret []byte) ([]byte, error) {
	return d.tpm.Activate(ctx, d.made[string(e.Public)], d.name, d.key.Info().Version, credential, encryptedSecret)
}

// Sign implements enrol.Device.
func (d *device) Sign(ctx context.Context, message []byte) ([]byte, error) {
	s, ok := d.key.(providers.Signer)
	if !ok {
		return nil, errors.New("the key is not for signing")
	}
	return s.Sign(ctx, d.kind, message)
}

// endorsement prints what a server's list needs.
func endorsement(ctx context.Context, out, said io.Writer, args []string) error {
	flags := flag.NewFlagSet("endorsement", flag.ContinueOnError)
	identity := flags.String("identity", "", "`name` of this device, which nobody else's TPM shall have")
	name := flags.String("tpm", "", "`device`: /dev/tpmrm0 (default), /dev/tpm0, swtpm:unix:/PATH or swtpm:tcp:HOST:PORT")
	if err := parse(out, flags, endorsementUsage, args); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "mslkeep-enrol") // for no keys
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	p, err := openTPM(ctx, tpm.Config{Device: *name, Folder: folder})
	if err != nil {
		return err
	}
	defer p.Close()
	for e, err := range p.Endorsements(ctx) {
		if err != nil {
			return err
		}
		certificate := "no certificate"
		if e.Certificate != nil {
			certificate = "certificate"
		}
		line, err := enrol.ListLine(e.Public, *identity, e.Name+", "+certificate)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}
