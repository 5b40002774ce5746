// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/secretfile"
)

// Auth says how to log in. Method tells which of the other fields there are.
type Auth struct {
	Method string `json:"method"` // approle, kubernetes, jwt, cert or token
	Mount  string `json:"mount"`  // of the method; default: its name
	Role   string `json:"role"`   // of all but token; for approle, the name of its role, which is needed if Wrapped

	RoleID   string `json:"role-id"`   // approle
	SecretID string `json:"secret-id"` // approle: reference to the secret id, or, if Wrapped, to the token that wraps it
	// Wrapped is for approle: SecretID is wrapped. It can be unwrapped once, so that a theft is noticed, which also means
	// that each process needs another one, and so does one that is started again. The process keeps the secret id.
	Wrapped bool `json:"wrapped"`

	JWT string `json:"jwt"` // jwt, kubernetes: reference to the JWT; for kubernetes, default: that of the pod

	// Certificate is for cert: a file in PEM. It can be given for other methods, too, if Vault's listener asks for it.
	Certificate string `json:"certificate"`
	Key         string `json:"key"` // reference to its private key, in PEM

	Token string `json:"token"` // token: reference to the token; read again when the file changes
}

const podToken = "file:/var/run/secrets/kubernetes.io/serviceaccount/token"

func (a *Auth) complete(tls bool) error {
	if a.Mount = strings.Trim(a.Mount, "/"); a.Mount == "" {
		a.Mount = a.Method
	}
	if !isMount(a.Mount) {
		return errors.New("auth.method must be approle, kubernetes, jwt, cert or token, and auth.mount a path")
	}
	if a.Method == "kubernetes" && a.JWT == "" {
		a.JWT = podToken
	}
	var fields map[string]string
	switch a.Method {
	case "approle":
		fields = map[string]string{"role-id": a.RoleID, "secret-id": a.SecretID}
		if a.Wrapped {
			fields["role"] = a.Role
		}
	case "kubernetes", "jwt":
		fields = map[string]string{"role": a.Role, "jwt": a.JWT}
	case "cert":
		fields = map[string]string{"certificate": a.Certificate, "key": a.Key}
		if !tls {
			return errors.New("auth.method cert needs an address that is https")
		}
	case "token":
		fields = map[string]string{"token": a.Token}
	default:
		return errors.New("auth.method must be approle, kubernetes, jwt, cert or token")
	}
	for name, value := range fields {
		if value == "" {
			return fmt.Errorf("auth.method %s needs auth.%s", a.Method, name)
		}
	}
	if (a.Certificate == "") != (a.Key == "") {
		return errors.New("auth.certificate and auth.key go together")
	}
	for name, source := range map[string]string{"secret-id": a.SecretID, "jwt": a.JWT, "key": a.Key, "token": a.Token} {
		if _, err := secretfile.Path(source); source != "" && errors.Is(err, secretfile.ErrReference) {
			return fmt.Errorf("auth.%s %w", name, err)
		}
	}
	return nil
}

// A grant is a token that Vault has given, or that is in a file.
type grant struct {
	token     string
	ttl       time.Duration // 0: it does not end
	renewable bool
}

const (
	longestLease  = 100 * 365 * 24 * 3600  // seconds
	shortestLease = 500 * time.Millisecond // Vault counts in whole seconds, and says 0 of less
)

// login gets a token. It is not safe for concurrent use: the session sees to that.
func (s *session) login(ctx context.Context) (grant, error) {
	a := s.auth
	switch a.Method {
	case "token":
		return s.fromFile(ctx)
	case "approle":
		return s.byAppRole(ctx)
	case "cert":
		return s.by(ctx, map[string]string{"name": a.Role})
	}
	jwt, err := readLine("reading auth.jwt", a.JWT, a.Method == "kubernetes")
	if err != nil {
		return grant{}, err
	}
	defer jwt.Wipe()
	return s.by(ctx, map[string]string{"role": a.Role, "jwt": string(secret.Reveal(jwt))})
}

// by logs in with a method's own fields.
func (s *session) by(ctx context.Context, fields map[string]string) (grant, error) {
	body, err := json.Marshal(fields)
	if err != nil {
		return grant{}, err
	}
	r, wipe, err := s.client.patiently(ctx, "", request{method: "POST", path: "auth/" + s.auth.Mount + "/login", body: body, again: true})
	defer wipe()
	if err != nil {
		return grant{}, err
	}
	return grantOf(r)
}

func grantOf(r reply) (grant, error) {
	if r.Auth == nil || r.Auth.Token == "" || r.Auth.Lease < 0 || r.Auth.Lease > longestLease {
		return grant{}, errAnswer
	}
	return grant{r.Auth.Token, max(time.Duration(r.Auth.Lease)*time.Second, shortestLease), r.Auth.Renewable}, nil
}

// fromFile takes the token of a file, and asks Vault for how long it is good.
func (s *session) fromFile(ctx context.Context) (grant, error) {
	line, err := readLine("reading auth.token", s.auth.Token, false)
	if err != nil {
		return grant{}, err
	}
	defer line.Wipe()
	g := grant{token: string(secret.Reveal(line))}
	r, wipe, err := s.client.patiently(ctx, g.token, request{method: "GET", path: "auth/token/lookup-self", again: true})
	defer wipe()
	var about struct {
		TTL       int64           `json:"ttl"`
		Ends      json.RawMessage `json:"expire_time"` // null: it does not
		Renewable bool            `json:"renewable"`
	}
	if err != nil {
		return grant{}, err
	}
	if json.Unmarshal(r.Data, &about) != nil || about.TTL < 0 || about.TTL > longestLease {
		return grant{}, errAnswer
	}
	if g.renewable = about.Renewable; about.TTL > 0 || len(about.Ends) > 0 && string(about.Ends) != "null" {
		g.ttl = max(time.Duration(about.TTL)*time.Second, shortestLease)
	}
	return g, nil
}

// byAppRole logs in with the secret id. A wrapped one is unwrapped once and then kept for as long as it is good
// and no other one is in the file.
func (s *session) byAppRole(ctx context.Context) (grant, error) {
	line, err := readLine("reading auth.secret-id", s.auth.SecretID, false)
	id := line
	if s.auth.Wrapped {
		switch {
		case err == nil:
			id, err = s.unwrapped(ctx, line)
		case s.secretID != nil:
			id, err = s.secretID, nil // whoever delivers it has taken the file away
		}
	}
	if err != nil {
		return grant{}, err
	}
	if id != s.secretID {
		defer id.Wipe()
	}
	return s.by(ctx, map[string]string{"role_id": s.auth.RoleID, "secret_id": string(secret.Reveal(id))})
}

var errStolen = errors.New("the secret id's wrapping token is spent or has expired: if this is its first use, somebody else may have the secret id")

// unwrapped returns the secret id that a token wraps, which belongs to the session.
func (s *session) unwrapped(ctx context.Context, token *secret.Bytes) (*secret.Bytes, error) {
	defer token.Wipe()
	digest := sha256.Sum256(secret.Reveal(token))
	if s.secretID != nil && digest == s.unwrappedFrom {
		return s.secretID, nil
	}
	text := string(secret.Reveal(token))
	body, err := json.Marshal(map[string]string{"token": text})
	if err != nil {
		return nil, err
	}
	var about struct {
		Path string `json:"creation_path"`
	}
	r, wipe, err := s.client.patiently(ctx, "", request{method: "POST", path: "sys/wrapping/lookup", body: body, again: true})
	if err == nil {
		err = json.Unmarshal(r.Data, &about)
	}
	wipe()
	if err != nil {
		return nil, spent(err)
	}
	if about.Path != "auth/"+s.auth.Mount+"/role/"+s.auth.Role+"/secret-id" {
		return nil, errors.New("the wrapping token was not made for a secret id of this role: somebody may have put it there")
	}
	r, wipe, err = s.client.patiently(ctx, text, request{method: "POST", path: "sys/wrapping/unwrap"})
	defer wipe()
	var out struct {
		ID string `json:"secret_id"`
	}
	if err == nil && (json.Unmarshal(r.Data, &out) != nil || out.ID == "") {
		err = errAnswer
	}
	if err != nil {
		return nil, spent(err)
	}
	s.secretID.Wipe()
	s.secretID, s.unwrappedFrom = secret.Take([]byte(out.ID)), digest
	return s.secretID, nil
}

// spent tells a wrapping token that is of no use from other failures.
func spent(err error) error {
	if r, ok := errors.AsType[*refusal](err); ok && (r.status == 400 || r.status == 403 || r.status == 404) {
		return errStolen
	}
	return err
}
