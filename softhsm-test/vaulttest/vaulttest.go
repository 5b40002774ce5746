// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package vaulttest runs a real Vault server for tests: vault or bao, if one is in PATH, or else the one of
// softhsm-test/vaultserver, which it builds the first time.
package vaulttest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Options say which Vault to start. The zero value is one in memory, by plain HTTP.
type Options struct {
	TLS     bool
	Storage string // folder; it must be given for a Vault that is to be restarted
}

// A Server is a Vault, unsealed, with transit mounted. It ends with the test.
type Server struct {
	Address string
	Token   string // root's
	Key     string // to unseal
	CA      string // file with its certificate in PEM, if it uses TLS

	tb      testing.TB
	options Options
	dir     string
	binary  string
	http    *http.Client
	ended   chan struct{}
	stop    func()
}

var binaryOnce = sync.OnceValues(func() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.Command("bash", filepath.Join(filepath.Dir(file), "..", "vaultserver", "build.sh"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
})

// Start starts a Vault.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	binary, err := binaryOnce()
	if err != nil {
		tb.Fatalf("building a Vault: %v", err)
	}
	s := &Server{tb: tb, options: o, dir: tb.TempDir(), binary: binary, http: &http.Client{Timeout: 30 * time.Second}}
	if o.TLS {
		s.NewCertificate()
	}
	tb.Cleanup(func() { s.Stop() })
	s.start("127.0.0.1:0")
	s.Do("POST", "sys/mounts/transit", `{"type":"transit"}`, nil)
	return s
}

// start runs the server at an address, and sees that it answers.
func (s *Server) start(listen string) {
	s.tb.Helper()
	if filepath.Base(s.binary) == "vault" || filepath.Base(s.binary) == "bao" {
		s.startInstalled(listen)
		return
	}
	args := []string{"-listen", listen, "-storage", s.options.Storage}
	if s.options.TLS {
		args = append(args, "-tls-cert", s.file("cert.pem"), "-tls-key", s.file("key.pem"))
	}
	out := s.run(args...)
	var started struct {
		Address, Token string
		Keys           []string
	}
	if err := json.NewDecoder(out).Decode(&started); err != nil {
		s.tb.Fatalf("Vault did not start: %v", err)
	}
	s.Address = started.Address
	if started.Token != "" {
		s.Token, s.Key = started.Token, started.Keys[0]
	}
}

// run starts the process.
func (s *Server) run(args ...string) io.Reader {
	s.tb.Helper()
	cmd := exec.Command(s.binary, args...)
	cmd.Env = []string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH")}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.tb.Fatal(err)
	}
	ended := make(chan struct{})
	s.ended = ended
	s.stop = sync.OnceFunc(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		close(ended)
	})
	return stdout
}

// startInstalled runs the server of an installed Vault or OpenBao, and initialises it if its storage is new.
func (s *Server) startInstalled(listen string) {
	s.tb.Helper()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		s.tb.Fatal(err)
	}
	listen = l.Addr().String()
	l.Close()
	storage, scheme, tlsLines := `storage "inmem" {}`, "http", "tls_disable = true"
	if s.options.Storage != "" {
		storage = fmt.Sprintf("storage \"file\" { path = %q }", s.options.Storage)
	}
	if s.options.TLS {
		scheme, tlsLines = "https", fmt.Sprintf("tls_cert_file = %q\n tls_key_file = %q", s.file("cert.pem"), s.file("key.pem"))
	}
	config := fmt.Sprintf("disable_mlock = true\n%s\nlistener \"tcp\" {\n address = %q\n %s\n}\n", storage, listen, tlsLines)
	if err := os.WriteFile(s.file("config.hcl"), []byte(config), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	out := s.run("server", "-config="+s.file("config.hcl"))
	go func() { _, _ = io.Copy(io.Discard, out) }()
	s.Address = scheme + "://" + listen
	var state struct{ Initialized bool }
	s.Eventually("Vault answers", func() bool { return s.try("GET", "sys/seal-status", "", &state) == nil })
	if state.Initialized {
		return
	}
	var made struct {
		Keys  []string
		Token string `json:"root_token"`
	}
	s.Do("PUT", "sys/init", `{"secret_shares":1,"secret_threshold":1}`, &made)
	s.Token, s.Key = made.Token, made.Keys[0]
	s.Unseal()
}

func (s *Server) file(name string) string { return filepath.Join(s.dir, name) }

// Stop kills the server, as a crash would.
func (s *Server) Stop() {
	if s.stop != nil {
		s.stop()
	}
}

// Restart starts a server that was stopped, at the same address. It is sealed.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	_, address, _ := strings.Cut(s.Address, "://")
	s.start(address)
}

// Seal seals the server.
func (s *Server) Seal() { s.tb.Helper(); s.Do("PUT", "sys/seal", "", nil) }

// Unseal unseals it.
func (s *Server) Unseal() {
	s.tb.Helper()
	s.Do("PUT", "sys/unseal", fmt.Sprintf(`{"key":%q}`, s.Key), nil)
	s.Eventually("Vault is unsealed", func() bool { return s.try("GET", "sys/mounts", "", nil) == nil })
}

// Do makes a request as root and fails the test if Vault refuses it. out gets the whole answer.
func (s *Server) Do(method, path, body string, out any) {
	s.tb.Helper()
	if err := s.try(method, path, body, out); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *Server) try(method, path, body string, out any) error {
	return s.As(s.Token, method, path, body, out)
}

// As makes a request with a token. A header NAME: VALUE may follow the body's JSON in path after a blank.
func (s *Server) As(token, method, path, body string, out any) error {
	path, header, _ := strings.Cut(path, " ")
	r, err := http.NewRequestWithContext(context.Background(), method, s.Address+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("X-Vault-Token", token)
	if name, value, ok := strings.Cut(header, ":"); ok {
		r.Header.Set(name, value)
	}
	response, err := s.http.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %d %s", method, path, response.StatusCode, bytes.TrimSpace(b))
	}
	if out != nil {
		return json.Unmarshal(b, out)
	}
	return nil
}

// Eventually waits until something is so, at most ten seconds.
func (s *Server) Eventually(what string, is func() bool) {
	s.tb.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		if is() {
			return
		}
		if time.Now().After(end) {
			s.tb.Fatalf("%s: not so in ten seconds", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// AppRole makes a role for the policy, and returns its role id and a function that makes secret ids, wrapped if
// ttl, the life of the wrapping token, is not empty.
func (s *Server) AppRole(name, policy, parameters string) (roleID string, secretID func(ttl string) string) {
	s.tb.Helper()
	_ = s.try("POST", "sys/auth/approle", `{"type":"approle"}`, nil) // it may be there
	s.Policy(name, policy)
	s.Do("POST", "auth/approle/role/"+name, fmt.Sprintf(`{"token_policies":[%q],"token_no_default_policy":true%s}`, name, parameters), nil)
	var role struct {
		Data struct {
			ID string `json:"role_id"`
		}
	}
	s.Do("GET", "auth/approle/role/"+name+"/role-id", "", &role)
	return role.Data.ID, func(ttl string) string {
		s.tb.Helper()
		path := "auth/approle/role/" + name + "/secret-id"
		if ttl != "" {
			path += " X-Vault-Wrap-TTL:" + ttl
		}
		var out struct {
			Data struct {
				ID string `json:"secret_id"`
			}
			Wrap struct{ Token string } `json:"wrap_info"`
		}
		s.Do("POST", path, "{}", &out)
		return out.Data.ID + out.Wrap.Token
	}
}

// Policy writes a policy.
func (s *Server) Policy(name, text string) {
	s.tb.Helper()
	body, err := json.Marshal(map[string]string{"policy": text})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.Do("PUT", "sys/policies/acl/"+name, string(body), nil)
}

// NewCertificate makes a certificate for the server, which CA then names. A server that runs goes on with its old
// one until it is restarted.
func (s *Server) NewCertificate() {
	s.tb.Helper()
	cert, key := Certificate(s.tb, "127.0.0.1")
	for name, b := range map[string][]byte{"cert.pem": cert, "key.pem": key} {
		if err := os.WriteFile(s.file(name), b, 0o600); err != nil {
			s.tb.Fatal(err)
		}
	}
	s.CA = s.file("cert.pem")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	s.http.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
}

// Certificate makes a certificate that signs itself, for an address or a name, and its private key, in PEM.
func Certificate(tb testing.TB, name string) (cert, key []byte) {
	tb.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &pair.PublicKey, pair)
	if err != nil {
		tb.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
