// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"unicode"
)

var errForeign = errors.New("what the server says is not of this protocol")

// A Device is a TPM with an identity key, to be enrolled. Package tpm has one.
type Device interface {
	// Endorsements are the TPM's endorsement keys, each made when it is asked for, which can take seconds. An error ends them.
	Endorsements(ctx context.Context) iter.Seq2[Endorsement, error]
	// Key is the public area (TPM2B_PUBLIC) of the identity key.
	Key() []byte
	// Activate opens a credential for the endorsement key and the identity key (TPM2_ActivateCredential).
	Activate(ctx context.Context, endorsement Endorsement, credential, encryptedSecret []byte) ([]byte, error)
	// Sign signs with the identity key: ECDSA (ASN.1) or RSASSA-PKCS1-v1_5, with SHA-256.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// An Endorsement is an endorsement key.
type Endorsement struct {
	Name        string // for people
	Public      []byte // TPM2B_PUBLIC
	Certificate []byte // DER; nil if the TPM has none
}

// Enrol has the server at base enrol a device. If the server does not know one of its endorsement keys, the next is tried. An
// error of the server is a [*Refusal]. The client should have a timeout.
func Enrol(ctx context.Context, client *http.Client, base *url.URL, identity string, d Device) error {
	if err := checkIdentity(identity); err != nil {
		return err
	}
	last := errors.New("the TPM has no endorsement key of a kind that we know")
	for e, err := range d.Endorsements(ctx) {
		if err != nil {
			return err
		}
		err = enrolWith(ctx, client, base, identity, d, e)
		if err == nil || !errors.Is(err, EndorsementUnknown) && !errors.Is(err, CertificateRefused) {
			return err
		}
		last = err
	}
	return last
}

// enrolWith is Enrol with one endorsement key.
func enrolWith(ctx context.Context, client *http.Client, base *url.URL, identity string, d Device, e Endorsement) error {
	request := &challengeRequest{Identity: identity, Endorsement: e.Public, Certificate: e.Certificate, Key: d.Key()}
	var c challenge
	if err := post(ctx, client, base.JoinPath(challengePath), request, &c); err != nil {
		return err
	}
	secret, err := d.Activate(ctx, e, c.Credential, c.Secret)
	if err != nil {
		return fmt.Errorf("opening the credential: %w", err)
	}
	if len(secret) != secretSize {
		return errors.New("opening the credential: it is not of this protocol")
	}
	said := transcript(request, &c)
	signature, err := d.Sign(ctx, signed(said))
	if err != nil {
		return fmt.Errorf("signing with the identity key: %w", err)
	}
	var r result
	err = post(ctx, client, base.JoinPath(answerPath), &answer{c.ID, authenticate(secret, said), signature}, &r)
	clear(secret)
	if err == nil && r.Identity != identity {
		err = errForeign
	}
	return err
}

// post sends a request to the server and parses what comes back.
func post(ctx context.Context, client *http.Client, to *url.URL, request, response any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	a, err := client.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(a.Body, maxBody)); err != nil {
		return fmt.Errorf("reading what the server says: %w", err)
	}
	if a.StatusCode != http.StatusOK {
		var refusal Refusal
		if json.Unmarshal(body, &refusal) != nil || refusal.Code == "" {
			return fmt.Errorf("the server says %d, and nothing that an enrolment server would", a.StatusCode)
		}
		refusal.Code, refusal.Reason = Code(printable(string(refusal.Code))), printable(refusal.Reason)
		return &refusal
	}
	if err := json.Unmarshal(body, response); err != nil {
		return errForeign
	}
	return nil
}

// printable keeps a terminal safe from what a server says.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s[:min(len(s), 200)])
}
