// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

// works fails the test unless a provider opens with the configuration and its key can be used.
func works(t *testing.T, c Config) *Provider {
	t.Helper()
	p := open(t, c)
	if err := p.Health(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// refused fails the test unless no provider opens.
func refused(t *testing.T, what string, c Config, want providers.Code) error {
	t.Helper()
	p, err := Open(t.Context(), c)
	if err == nil {
		p.Close()
	}
	wantCode(t, what, err, want)
	return err
}

func TestWrappedSecretID(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, `,"token_ttl":"1s","token_max_ttl":"1s"`)
	role, secretID := w.AppRole("mslkeep", w.policy, `,"token_ttl":"1s","token_max_ttl":"1s"`)
	c := w.config
	file := write(t, "wrapped", secretID("60s"))
	c.Auth = Auth{Method: "approle", Role: "mslkeep", RoleID: role, SecretID: "file:" + file, Wrapped: true}
	p := works(t, c)
	old := p.session.grant.token
	if err := os.Remove(file); err != nil { // the delivery is taken away, and it goes on with what it has
		t.Fatal(err)
	}
	w.Eventually("it logs in again", func() bool {
		token, err := p.session.current(t.Context())
		return err == nil && token != old
	})
	if err := p.Health(t.Context()); err != nil {
		t.Error(err)
	}

	// Somebody else was faster.
	stolen := secretID("60s")
	w.Do("POST", "sys/wrapping/unwrap", fmt.Sprintf(`{"token":%q}`, stolen), nil)
	c.Auth.SecretID = "file:" + write(t, "stolen", stolen)
	if err := refused(t, "a wrapping token that is spent", c, providers.Locked); err != nil && (!errors.Is(err, errStolen) || strings.Contains(err.Error(), stolen)) {
		t.Error(err)
	}

	// Somebody put another secret there.
	var other struct {
		Wrap struct{ Token string } `json:"wrap_info"`
	}
	w.Do("POST", "sys/wrapping/wrap X-Vault-Wrap-TTL:60s", `{"secret_id":"not ours"}`, &other)
	c.Auth.SecretID = "file:" + write(t, "other", other.Wrap.Token)
	refused(t, "a wrapping token of another path", c, providers.Locked)
}

// jwtOf makes a JWT, signed by ES256 (RFC 7518 §3.4).
func jwtOf(t *testing.T, key *ecdsa.PrivateKey, claims map[string]any) string {
	t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]string{"alg": "ES256", "typ": "JWT"}) + "." + part(claims)
	digest := sha256.Sum256([]byte(text))
	a, b, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(append(a.FillBytes(make([]byte, 32)), b.FillBytes(make([]byte, 32))...))
}

func TestJWT(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"jwt_validation_pubkeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))},
		"jwt_supported_algs": []string{"ES256"}})
	if err != nil {
		t.Fatal(err)
	}
	w.Do("POST", "sys/auth/workload", `{"type":"jwt"}`, nil)
	w.Do("POST", "auth/workload/config", string(config), nil)
	w.Do("POST", "auth/workload/role/agent", `{"role_type":"jwt","user_claim":"sub","bound_audiences":["vault"],"token_policies":["mslkeep"]}`, nil)
	claims := map[string]any{"sub": "agent", "aud": "vault", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "nbf": time.Now().Add(-time.Minute).Unix()}
	c := w.config
	c.Auth = Auth{Method: "jwt", Mount: "workload", Role: "agent", JWT: "file:" + write(t, "jwt", jwtOf(t, private, claims)+"\n")}
	works(t, c)
	claims["aud"] = "others"
	bad := jwtOf(t, private, claims)
	c.Auth.JWT = "file:" + write(t, "jwt", bad)
	if err := refused(t, "a JWT for others", c, providers.Locked); err != nil && strings.Contains(err.Error(), bad) {
		t.Error("the error has the JWT")
	}
}

// TestKubernetes: Vault asks a stand-in for Kubernetes whether the pod's token is good.
func TestKubernetes(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pod := jwtOf(t, private, map[string]any{"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:agent", "exp": time.Now().Add(time.Hour).Unix(),
		"iat": time.Now().Unix(), "nbf": time.Now().Add(-time.Minute).Unix(),
		"kubernetes.io": map[string]any{"namespace": "default", "serviceaccount": map[string]string{"name": "agent", "uid": "1"}}})
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		good := strings.Contains(string(body), pod)
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusCreated)
		fmt.Fprintf(rw, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":%t,"user":{"username":"system:serviceaccount:default:agent","uid":"1","groups":["system:serviceaccounts"]}}}`, good)
	}))
	t.Cleanup(api.Close)
	w.Do("POST", "sys/auth/kubernetes", `{"type":"kubernetes"}`, nil)
	w.Do("POST", "auth/kubernetes/config", fmt.Sprintf(`{"kubernetes_host":%q,"token_reviewer_jwt":%q,"disable_iss_validation":true,"disable_local_ca_jwt":true}`, api.URL, pod), nil)
	w.Do("POST", "auth/kubernetes/role/agent", `{"bound_service_account_names":["agent"],"bound_service_account_namespaces":["default"],"token_policies":["mslkeep"]}`, nil)
	c := w.config
	file := write(t, "token", pod)
	if err := os.Chmod(file, 0o644); err != nil { // as Kubernetes does
		t.Fatal(err)
	}
	c.Auth = Auth{Method: "kubernetes", Role: "agent", JWT: "file:" + file}
	works(t, c)
	c.Auth.Role = "others"
	refused(t, "another role", c, providers.Locked)
}

func TestCertificate(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{TLS: true})
	cert, key := vaulttest.Certificate(t, "agent")
	v.Do("POST", "transit/keys/entities", `{"type":"aes256-gcm96"}`, nil)
	c := Config{Address: v.Address, CA: v.CA, Keys: map[string]providers.KeyType{"entities": providers.AES256},
		Auth: Auth{Method: "cert", Role: "agent", Certificate: write(t, "cert.pem", string(cert)), Key: "file:" + write(t, "key.pem", string(key))}}
	policy, err := Policy(c)
	if err != nil {
		t.Fatal(err)
	}
	v.Policy("agent", policy)
	v.Do("POST", "sys/auth/cert", `{"type":"cert"}`, nil)
	body, err := json.Marshal(map[string]any{"certificate": string(cert), "token_policies": []string{"agent"}})
	if err != nil {
		t.Fatal(err)
	}
	v.Do("POST", "auth/cert/certs/agent", string(body), nil)
	works(t, c)
	other, otherKey := vaulttest.Certificate(t, "agent")
	c.Auth.Certificate, c.Auth.Key = write(t, "cert.pem", string(other)), "file:"+write(t, "key.pem", string(otherKey))
	refused(t, "another certificate", c, providers.Locked)
	c.Auth.Key = "file:" + write(t, "key.pem", string(key))
	refused(t, "a key of another certificate", c, providers.Malformed)
}

// TestNewCA: Vault comes back with another certificate, and the file is replaced while the provider runs.
func TestNewCA(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{TLS: true, Storage: t.TempDir()})
	v.Do("POST", "transit/keys/k", `{"type":"aes256-gcm96"}`, nil)
	old, err := os.ReadFile(v.CA)
	if err != nil {
		t.Fatal(err)
	}
	c := configOf(t, v)
	c.CA = write(t, "ca.pem", string(old))
	p := works(t, c)
	v.NewCertificate()
	v.Restart()
	v.Unseal()
	wantCode(t, "a certificate that is not known", p.Health(t.Context()), providers.Transient)
	fresh, err := os.ReadFile(v.CA)
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(filepath.Dir(c.CA), "next")
	if err := os.WriteFile(next, fresh, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, c.CA); err != nil {
		t.Fatal(err)
	}
	v.Eventually("it knows the new one", func() bool { return p.Health(t.Context()) == nil })
	if err := os.WriteFile(c.CA, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Health(t.Context()); err != nil {
		t.Errorf("a bad file was taken: %v", err)
	}
	refused(t, "a bad file at start", c, providers.Malformed)
}

// TestNewTokenFile: a token in a file is replaced before it ends.
func TestNewTokenFile(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	v.Do("POST", "transit/keys/k", `{"type":"aes256-gcm96"}`, nil)
	token := func() string {
		var out struct {
			Auth struct {
				Token string `json:"client_token"`
			}
		}
		v.Do("POST", "auth/token/create", `{"policies":["root"],"ttl":"1s","explicit_max_ttl":"1s","no_parent":true}`, &out)
		return out.Auth.Token
	}
	c := configOf(t, v)
	file := write(t, "token", token())
	c.Auth.Token = "file:" + file
	p := works(t, c)
	v.Eventually("the token ends", func() bool { return errors.Is(p.Health(t.Context()), providers.Transient) })
	if err := os.WriteFile(file, []byte(token()), 0o600); err != nil {
		t.Fatal(err)
	}
	v.Eventually("the new one is taken", func() bool { return p.Health(t.Context()) == nil })
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, "a token that everybody can read", c, providers.Locked)
}

// TestGivenBack: Close revokes the token.
func TestGivenBack(t *testing.T) {
	w := newWorld(t, vaulttest.Options{}, "")
	token := w.provider.session.grant.token
	if err := w.As(token, "POST", "auth/token/renew-self", "{}", nil); err != nil {
		t.Fatal(err)
	}
	w.provider.Close()
	if err := w.As(token, "POST", "auth/token/renew-self", "{}", nil); err == nil {
		t.Error("the token is still good")
	}
}

// TestEnvironment: nothing of what Vault's client would take from the environment counts.
func TestEnvironment(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	for name, value := range map[string]string{"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": "hvs.other", "VAULT_NAMESPACE": "other",
		"VAULT_HEADERS": `{"X-Other":"other"}`, "VAULT_AGENT_ADDR": "http://127.0.0.1:1", "VAULT_MAX_RETRIES": "99", "VAULT_PROXY_ADDR": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"} {
		t.Setenv(name, value)
	}
	var headers http.Header
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers = r.Header
		r, err := http.NewRequestWithContext(r.Context(), r.Method, v.Address+r.URL.RequestURI(), r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("X-Vault-Token", v.Token)
		response, err := (&http.Client{Transport: new(http.Transport)}).Do(r)
		if err != nil {
			t.Error(err)
			return
		}
		defer response.Body.Close()
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
	}))
	t.Cleanup(front.Close)
	c := configOf(t, v)
	c.Address, c.Namespace = front.URL, "team/msl"
	works(t, c)
	if headers.Get("X-Vault-Namespace") != "team/msl" || headers.Get("X-Vault-Token") != v.Token || headers.Get("X-Other") != "" || headers.Get("X-Vault-Request") != "true" {
		t.Errorf("the headers are %v", headers)
	}
}

func TestBadSettings(t *testing.T) {
	good := Config{Address: "https://vault:8200", Auth: Auth{Method: "token", Token: "file:/x"}}
	if c := good; c.complete() != nil {
		t.Fatal(c.complete())
	}
	for what, change := range map[string]func(*Config){
		"plain HTTP to elsewhere": func(c *Config) { c.Address = "http://vault:8200" },
		"a password":              func(c *Config) { c.Address = "https://u:p@vault" },
		"a path":                  func(c *Config) { c.Address = "https://vault/x" },
		"no host":                 func(c *Config) { c.Address = "https://" },
		"no address":              func(c *Config) { c.Address = "" },
		"a mount with dots":       func(c *Config) { c.Mount = "a/../b" },
		"a mount with a query":    func(c *Config) { c.Mount = "a?b" },
		"a relative ca":           func(c *Config) { c.CA = "ca.pem" },
		"no method":               func(c *Config) { c.Auth = Auth{} },
		"a token itself":          func(c *Config) { c.Auth.Token = "hvs.canary" },
		"cert without TLS": func(c *Config) {
			c.Address, c.Auth = "http://localhost", Auth{Method: "cert", Certificate: "/c", Key: "file:/k"}
		},
		"approle without role id": func(c *Config) { c.Auth = Auth{Method: "approle", SecretID: "file:/x"} },
		"wrapped without role":    func(c *Config) { c.Auth = Auth{Method: "approle", RoleID: "r", SecretID: "file:/x", Wrapped: true} },
		"a key half":              func(c *Config) { c.Auth.Certificate = "/c" },
		"a bad name":              func(c *Config) { c.Keys = map[string]providers.KeyType{"a__b": providers.AES128} },
		"a bad type":              func(c *Config) { c.Keys = map[string]providers.KeyType{"a": "des"} },
		"a long timeout":          func(c *Config) { c.Timeout = Duration(time.Hour) },
		"a long window":           func(c *Config) { c.Window = Duration(time.Second) },
		"a relative folder":       func(c *Config) { c.Wrapped = &Wrapped{Folder: "x", Key: "k"} },
	} {
		c := good
		change(&c)
		err := refused(t, what, c, providers.Malformed)
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error has the token", what)
		}
	}
}
