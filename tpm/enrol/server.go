// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package enrol

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path"
	"time"
)

// Config says which devices a [Server] enrols. It demands what is set, of Roots and Endorsements one at least, or both.
type Config struct {
	Devices       string         // folder for the public keys of devices; it must exist
	Endorsements  string         // file with the list of endorsement keys; empty for none
	Roots         *x509.CertPool // to which the certificates of endorsement keys must lead; nil for no certificates
	Intermediates *x509.CertPool // of makers of TPMs, by way of which they may do so; may be nil
	Identities    string         // pattern (path.Match) of the identities that may be enrolled; empty for any
	Replace       bool           // an identity may get another key
	Log           *slog.Logger   // what was enrolled and what was refused; nil for none
}

// A Server enrols devices, over HTTP. It holds no keys of its own. It is safe for concurrent use.
type Server struct {
	config  Config
	list    *list // nil for none
	folder  folder
	waiting waiting
	mux     *http.ServeMux
	now     func() time.Time
}

// NewServer opens the folder and the list.
func NewServer(c Config) (*Server, error) {
	if c.Endorsements == "" && c.Roots == nil {
		return nil, errors.New("neither roots nor a list of endorsement keys: any program could pretend to be a TPM")
	}
	if _, err := path.Match(c.Identities, ""); err != nil {
		return nil, errors.New("the pattern of identities cannot be understood")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{config: c, mux: http.NewServeMux(), now: time.Now}
	if c.Endorsements != "" {
		var err error
		if s.list, err = openList(c.Endorsements); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(c.Devices)
	if err != nil {
		return nil, err
	}
	s.folder = folder{root}
	s.mux.HandleFunc("POST "+challengePath, handle(s, s.challenge))
	s.mux.HandleFunc("POST "+answerPath, handle(s, s.answer))
	return s, nil
}

// Close closes the folder.
func (s *Server) Close() error { return s.folder.root.Close() }

// ServeHTTP answers requests. Those who call must limit how long a client may take to send its request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// handle makes a handler of a function from a request to a response, both in JSON.
func handle[Q, A any](s *Server, work func(*Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request Q
		var response any
		err := decode(http.MaxBytesReader(w, r.Body, maxBody), &request)
		if err == nil {
			response, err = work(&request)
		}
		status := http.StatusOK
		if err != nil {
			refusal, ok := errors.AsType[*Refusal](err)
			if !ok {
				refusal = &Refusal{Unavailable, "the server could not do it", err}
			}
			s.config.Log.Warn("refused", "from", r.RemoteAddr, "identity", identityOf(&request), "code", string(refusal.Code), "reason", refusal.Reason, "cause", refusal.Err)
			response, status = refusal, refusal.Code.status()
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(response) // who does not listen gets no answer
	}
}

// identityOf returns the identity in a request for the log, if it has one that can be.
func identityOf(request any) string {
	r, ok := request.(*challengeRequest)
	if !ok || checkIdentity(r.Identity) != nil {
		return ""
	}
	return r.Identity
}

// decode parses one JSON object and nothing after it.
func decode(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refuse(TooLarge, "the request is too long", nil)
	}
	return refuse(Malformed, "the request is not the JSON object that it should be", nil)
}

// challenge decides whether a device may be enrolled, and asks it to prove what it says.
func (s *Server) challenge(r *challengeRequest) (*challenge, error) {
	key, endorsement, err := s.admit(r)
	if err != nil {
		return nil, err
	}
	p := &pending{ends: s.now().Add(lifetime), identity: r.Identity, endorsement: endorsement.fingerprint(), key: key.key, secret: make([]byte, secretSize)}
	rand.Read(p.secret) // never fails
	rand.Read(p.id[:])
	c := &challenge{ID: p.id[:]}
	if c.Credential, c.Secret, err = endorsement.credential(p.secret, key.name()); err != nil {
		return nil, refuse(EndorsementUnfit, "nothing can be encrypted for this endorsement key", err)
	}
	p.transcript = transcript(r, c)
	s.waiting.add(p, s.now())
	return c, nil
}

// admit checks all that needs no proof. It returns the identity key and the endorsement key.
func (s *Server) admit(r *challengeRequest) (key, endorsement *public, err error) {
	if err := checkIdentity(r.Identity); err != nil {
		return nil, nil, err
	}
	if ok, _ := path.Match(s.config.Identities, r.Identity); s.config.Identities != "" && !ok {
		return nil, nil, refuse(IdentityDenied, "this server enrols no such identity", nil)
	}
	if endorsement, err = parsePublic(r.Endorsement); err != nil {
		return nil, nil, refuse(EndorsementUnfit, err.Error(), nil)
	}
	if key, err = parsePublic(r.Key); err != nil {
		return nil, nil, refuse(KeyUnfit, err.Error(), nil)
	}
	if err := endorsement.checkEndorsement(); err != nil {
		return nil, nil, err
	}
	if err := key.checkKey(); err != nil {
		return nil, nil, err
	}
	if s.list != nil {
		if err := s.list.check(endorsement.fingerprint(), r.Identity); err != nil {
			return nil, nil, err
		}
	}
	if s.config.Roots != nil {
		if err := checkCertificate(r.Certificate, endorsement.key, s.config.Roots, s.config.Intermediates, s.now()); err != nil {
			return nil, nil, err
		}
	}
	_, err = s.free(r.Identity, key.key)
	return key, endorsement, err
}

// free refuses an identity that has another key, unless it may be replaced. It returns the key's SubjectPublicKeyInfo.
func (s *Server) free(identity string, key crypto.PublicKey) (spki []byte, err error) {
	if spki, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return nil, refuse(KeyUnfit, "the identity key cannot be written", err)
	}
	if _, err := s.folder.check(identity, spki); err != nil && !(errors.Is(err, errOtherKey) && s.config.Replace) {
		return nil, storeError(err)
	}
	return spki, nil
}

func storeError(err error) error {
	if errors.Is(err, errOtherKey) {
		return refuse(Enrolled, "another key is enrolled with this identity", nil)
	}
	return refuse(Unavailable, "the folder of devices cannot be used", err)
}

// answer enrols a device that has answered a challenge, which is good once, whether the answer is right or wrong.
func (s *Server) answer(a *answer) (*result, error) {
	p := s.waiting.take(a.ID, s.now())
	if p == nil {
		return nil, refuse(NoChallenge, "there is no such challenge any more", nil)
	}
	activated := hmac.Equal(a.MAC, authenticate(p.secret, p.transcript))
	if !verify(p.key, signed(p.transcript), a.Signature) || !activated {
		return nil, refuse(WrongAnswer, "the answer is wrong", nil)
	}
	spki, err := s.free(p.identity, p.key)
	if err != nil {
		return nil, err
	}
	if err := s.folder.add(p.identity, spki, s.config.Replace); err != nil {
		return nil, storeError(err)
	}
	s.config.Log.Info("enrolled", "identity", p.identity, "endorsement", p.endorsement.String())
	return &result{p.identity}, nil
}

// verify verifies a signature as MSL makes them (SHA-256).
func verify(key crypto.PublicKey, message, signature []byte) bool {
	digest := sha256.Sum256(message)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest[:], signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], signature) == nil
	}
	return false
}
