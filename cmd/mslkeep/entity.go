// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

// entityConfig says who this side is (§5).
type entityConfig struct {
	Scheme      string `toml:"scheme"`
	Identity    string `toml:"identity"`         // PSK_PROFILE: the pskid; NONE_SUFFIXED: the root
	Profile     string `toml:"profile"`          // PSK_PROFILE
	Suffix      string `toml:"suffix"`           // NONE_SUFFIXED
	KeyID       string `toml:"key-id"`           // RSA and ECC: the pubkeyid; X509: the name of the key
	Certificate string `toml:"certificate-file"` // X509, PEM
	ProtectedBy string `toml:"protected-by"`     // store with the master token under which all this is hidden: MT_PROTECTED
}

// define defines flags for all of it. If there is --scheme, they replace what the file says.
func (e *entityConfig) define(flags *flag.FlagSet) {
	flags.StringVar(&e.Scheme, "scheme", "", "authenticate with this entity `scheme`, and the next flags, instead of as the file says")
	flags.StringVar(&e.Identity, "identity", "", "own identity; with PSK_PROFILE the pskid, with NONE_SUFFIXED the root")
	flags.StringVar(&e.Profile, "profile", "", "PSK_PROFILE: the `profile`")
	flags.StringVar(&e.Suffix, "suffix", "", "NONE_SUFFIXED: the `suffix`")
	flags.StringVar(&e.KeyID, "key-id", "", "RSA, ECC and X509: the `name` of the key")
	flags.StringVar(&e.Certificate, "certificate", "", "X509: `file` with the certificate")
	flags.StringVar(&e.ProtectedBy, "protected-by", "", "hide all this under the master token in this `file`, a --store of before (MT_PROTECTED)")
}

// override replaces the section of the file.
func (e *entityConfig) override(cfg *config) error {
	switch {
	case e.Scheme != "":
		cfg.Entity = *e
	case *e != (entityConfig{}):
		return usageError("--scheme is missing: it goes with the flags that say who we are")
	}
	return nil
}

// needs says which fields each scheme has.
var needs = map[string]struct{ identity, profile, suffix, keyID, certificate bool }{
	"PSK":           {identity: true},
	"PSK_PROFILE":   {identity: true, profile: true},
	"X509":          {keyID: true, certificate: true},
	"RSA":           {identity: true, keyID: true},
	"ECC":           {identity: true, keyID: true},
	"NONE":          {identity: true},
	"NONE_SUFFIXED": {identity: true, suffix: true},
	"PROVISIONED":   {},
}

// check refuses fields that are missing, and those that the scheme does not have.
func (e *entityConfig) check() error {
	n, known := needs[e.Scheme]
	if !known {
		hint := "it is one of PSK, PSK_PROFILE, X509, RSA, ECC, NONE, NONE_SUFFIXED, PROVISIONED"
		if e.Scheme == "MT_PROTECTED" {
			hint = "name the scheme that is to be protected, and set protected-by"
		}
		return configError(fmt.Errorf("[entity] scheme %q", e.Scheme), hint)
	}
	for _, f := range []struct {
		name, value string
		needed      bool
	}{
		{"identity", e.Identity, n.identity}, {"profile", e.Profile, n.profile}, {"suffix", e.Suffix, n.suffix},
		{"key-id", e.KeyID, n.keyID}, {"certificate-file", e.Certificate, n.certificate},
	} {
		switch {
		case f.needed && f.value == "":
			return configError(fmt.Errorf("[entity] has no %s", f.name), "scheme "+e.Scheme+" needs it")
		case !f.needed && f.value != "":
			return configError(fmt.Errorf("[entity] has %s", f.name), "scheme "+e.Scheme+" does not have it")
		}
	}
	return nil
}

// entity returns who we are, without the protection of MT_PROTECTED.
func (c *config) entity() (msl.EntityAuthData, error) {
	e := c.Entity
	if err := e.check(); err != nil {
		return msl.EntityAuthData{}, err
	}
	switch e.Scheme {
	case "PSK":
		return msl.PSK(e.Identity), nil
	case "PSK_PROFILE":
		return msl.PSKProfile(e.Identity, e.Profile), nil
	case "RSA":
		return msl.RSA(e.Identity, e.KeyID), nil
	case "ECC":
		return msl.ECC(e.Identity, e.KeyID), nil
	case "NONE":
		return msl.None(e.Identity), nil
	case "NONE_SUFFIXED":
		return msl.NoneSuffixed(e.Identity, e.Suffix), nil
	case "PROVISIONED":
		return msl.Provisioned(), nil
	}
	certificate, err := c.certificate()
	if err != nil {
		return msl.EntityAuthData{}, err
	}
	d, err := msl.X509(certificate, e.KeyID)
	if err != nil {
		return d, configError(fmt.Errorf("[entity] certificate-file: %w", err), "its subject must not be empty")
	}
	return d, nil
}

// certificate reads our own one.
func (c *config) certificate() (*x509.Certificate, error) {
	list, err := certificates(c.path(c.Entity.Certificate))
	if err == nil && len(list) != 1 {
		err = errors.New("there must be one certificate")
	}
	if err != nil {
		return nil, configError(fmt.Errorf("[entity] certificate-file: %w", err), "the file must hold a PEM block CERTIFICATE")
	}
	return list[0], nil
}

// protect hides who we are, if the configuration says so.
func (c *config) protect(ctx context.Context, keys *agent.Client, d msl.EntityAuthData) (msl.EntityAuthData, error) {
	if c.Entity.ProtectedBy == "" {
		return d, nil
	}
	earlier, err := c.earlier(ctx, c.Entity.ProtectedBy)
	if err != nil {
		return d, configError(fmt.Errorf("[entity] protected-by: %w", err), "")
	}
	if d, err = msl.MTProtected(ctx, keys, earlier, d); err != nil {
		return d, configError(fmt.Errorf("[entity] protected-by: %w", err), "it must be the --store of an earlier run with the same agent")
	}
	return d, nil
}

// earlier reads what an earlier run has kept.
func (c *config) earlier(ctx context.Context, path string) (*msl.State, error) {
	if _, err := os.Stat(c.path(path)); err != nil {
		return nil, err
	}
	store, err := msl.OpenFileStore(c.path(path))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return store.Load(ctx)
}

// checkEntity makes sure that the agent has the keys with which we authenticate.
func (c *config) checkEntity(ctx context.Context, k *agent.Client, d msl.EntityAuthData) error {
	kind, prefix := "rsa-2048", "rsa/"
	switch d.Scheme {
	case "NONE", "NONE_SUFFIXED", "PROVISIONED":
		return nil
	case "ECC":
		kind, prefix = "ec-p256", "ec/"
	}
	own, err := k.EntityContext(ctx, d.Scheme, d.Identity(), d.KeyID())
	var failure msl.FailureError
	switch {
	case err == nil && d.Scheme == "X509":
		return c.checkCertificate(ctx, own)
	case !errors.As(err, &failure):
		return err
	}
	if f, _ := failure.Failure(); f != msl.NoSuchKey {
		return &exitError{exitAgent, err, hintFor(err)}
	}
	if d.KeyID() == "" {
		return configError(fmt.Errorf("[entity] the agent has no pre-shared key of %q", d.Identity()), "import it: mslkeep keys import psk/"+d.Identity())
	}
	return configError(fmt.Errorf("[entity] the agent has no key pair %q", d.KeyID()), "make it: mslkeep keys generate --type "+kind+" "+prefix+d.KeyID())
}

// checkCertificate makes sure that our key is that of our certificate.
func (c *config) checkCertificate(ctx context.Context, own msl.CryptoContext) error {
	certificate, err := c.certificate()
	if err != nil {
		return err
	}
	parts, err := own.Seal(ctx, [][]byte{[]byte("mslkeep")})
	if err != nil {
		return &exitError{exitAgent, err, hintFor(err)}
	}
	key, ok := certificate.PublicKey.(*rsa.PublicKey)
	digest := sha256.Sum256(parts[0].Data)
	if !ok || rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], parts[0].Signature) != nil {
		return configError(fmt.Errorf("[entity] key %q is not that of the certificate", c.Entity.KeyID), "import the certificate's key: mslkeep keys import --type rsa-2048 rsa/NAME")
	}
	return nil
}

// trust adds the keys and roots of peers to m.
func (c *config) trust(m *msl.Config) (err error) {
	m.RSAPublicKeys, m.RSAIdentities, err = peerKeys[*rsa.PublicKey](c, "rsa", c.Peers.RSA)
	if err != nil {
		return err
	}
	curves, identities, err := peerKeys[*ecdsa.PublicKey](c, "ecc", c.Peers.ECC)
	if err != nil {
		return err
	}
	m.ECCPublicKeys, m.ECCIdentities = make(map[string]crypto.PublicKey), identities
	for id, key := range curves {
		m.ECCPublicKeys[id] = key
	}
	if c.Peers.Directory != "" {
		dir, err := c.keyDirectory()
		if err != nil {
			return err
		}
		m.PublicKey = dir.find
	}
	for _, f := range []struct {
		name, file string
		pool       **x509.CertPool
	}{{"x509-roots-file", c.Peers.Roots, &m.X509Roots}, {"x509-intermediates-file", c.Peers.Intermediates, &m.X509Intermediates}} {
		if f.file == "" {
			continue
		}
		list, err := certificates(c.path(f.file))
		if err != nil {
			return configError(fmt.Errorf("[peers] %s: %w", f.name, err), "the file must hold PEM blocks CERTIFICATE")
		}
		*f.pool = x509.NewCertPool()
		for _, certificate := range list {
			(*f.pool).AddCert(certificate)
		}
	}
	return nil
}

// peerKeys reads the public keys of remote entities, and which identities belong to them.
func peerKeys[K *rsa.PublicKey | *ecdsa.PublicKey](c *config, section string, list []peerKeyConfig) (map[string]K, map[string][]string, error) {
	keys, identities := make(map[string]K), make(map[string][]string)
	for _, p := range list {
		key, err := publicKey(c.path(p.File))
		k, ok := key.(K)
		if err == nil && !ok {
			err = errors.New("a key of another type")
		}
		if err != nil {
			return nil, nil, configError(fmt.Errorf("[[peers.%s]] %q: %w", section, p.KeyID, err), "the file must hold a PEM block PUBLIC KEY")
		}
		keys[p.KeyID] = k
		if p.Identities != nil {
			identities[p.KeyID] = p.Identities
		}
	}
	return keys, identities, nil
}

// A keyDirectory is a folder with a file KEY-ID.pem for each entity that was enrolled, where KEY-ID is escaped as in a URL's
// path. It is looked at whenever an entity comes without a master token, so a file that is new, or gone, counts at once.
type keyDirectory struct{ root *os.Root }

func (c *config) keyDirectory() (keyDirectory, error) {
	dir, err := os.OpenRoot(c.path(c.Peers.Directory))
	if err != nil {
		return keyDirectory{}, configError(fmt.Errorf("[peers] public-key-directory: %w", err), "make the folder")
	}
	return keyDirectory{dir}, nil
}

func (d keyDirectory) find(_ context.Context, keyID string) (crypto.PublicKey, error) {
	data, err := d.read(keyID)
	if err != nil || data == nil {
		return nil, err
	}
	return parsePublicKey(data, d.root.Name())
}

// read returns what is in a file, or nil if there is none.
func (d keyDirectory) read(keyID string) ([]byte, error) {
	if keyID == "" || len(keyID) > 80 {
		return nil, nil // 240 bytes, escaped
	}
	f, err := d.root.Open(url.PathEscape(keyID) + ".pem")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 16<<10))
}

func publicKey(path string) (crypto.PublicKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parsePublicKey(data, path)
}

func parsePublicKey(data []byte, path string) (crypto.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("no public key in " + path)
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

// certificates reads all certificates of a PEM file, of which there must be one at least.
func certificates(path string) (list []*x509.Certificate, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("something else than certificates in " + path)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, certificate)
	}
	if len(list) == 0 {
		return nil, errors.New("no certificate in " + path)
	}
	return list, nil
}
