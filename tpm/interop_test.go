// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
)

// tool runs one of the tools of tpm2-tools or openssl on a chip that the provider has let go.
func tool(t *testing.T, s *swtpm, dir string, stdin []byte, command ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skipf("%s is not installed (apt-get install tpm2-tools tpm2-openssl)", command[0])
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = dir
	tcti := "swtpm:path=" + s.socket
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+tcti, "TPM2OPENSSL_TCTI="+tcti, "TSS2_LOG=all+none")
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if e, ok := err.(*exec.ExitError); ok {
			stderr = e.Stderr
		}
		t.Fatalf("%s: %v\n%s%s", strings.Join(command, " "), err, out, stderr)
	}
	return out
}

// TestOpenSSL: openssl's TPM provider uses the key files of this package, and this package those of openssl.
func TestOpenSSL(t *testing.T) {
	s := newTPM(t)
	config := s.config(t)
	config.PersistRoot = true
	p := open(t, config)
	keys := map[string][]byte{}
	for name, kt := range map[string]providers.KeyType{"ec": providers.ECP256, "rsa": providers.RSA2048} {
		keys[name] = publicOf(t, generate[providers.PublicKeyer](t, p, name, kt))
	}
	p.Close()
	message := []byte("message")
	digest := sha256.Sum256(message)
	openssl := func(stdin []byte, args ...string) []byte {
		return tool(t, s, config.Folder, stdin, append([]string{"openssl", args[0], "-provider", "tpm2", "-provider", "default"}, args[1:]...)...)
	}
	sig := openssl(message, "pkeyutl", "-sign", "-rawin", "-digest", "sha256", "-inkey", "ec.1.pem", "-in", "-")
	pub, _ := x509.ParsePKIXPublicKey(keys["ec"])
	if !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("openssl's ECDSA signature with the key of a file is not good")
	}
	sig = openssl(message, "pkeyutl", "-sign", "-rawin", "-digest", "sha256", "-inkey", "rsa.1.pem", "-in", "-")
	pub, _ = x509.ParsePKIXPublicKey(keys["rsa"])
	if err := rsa.VerifyPKCS1v15(pub.(*rsa.PublicKey), crypto.SHA256, digest[:], sig); err != nil {
		t.Error("openssl's RSA signature with the key of a file:", err)
	}

	openssl(nil, "genpkey", "-algorithm", "EC", "-pkeyopt", "group:P-256", "-pkeyopt", "parent:0x81000001", "-out", "theirs.1.pem")
	openssl(nil, "genpkey", "-algorithm", "RSA", "-pkeyopt", "bits:2048", "-pkeyopt", "parent:0x81000001", "-out", "theirs.both.1.pem")
	p = open(t, config)
	theirs := opened[providers.Signer](t, p, "theirs")
	sig, err := theirs.Sign(t.Context(), providers.ECDSAP256, message)
	if err != nil {
		t.Fatal(err)
	}
	pub, _ = x509.ParsePKIXPublicKey(publicOf(t, theirs))
	if !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("our signature with openssl's key is not good")
	}
	peer, _ := ecdh.P256().GenerateKey(rand.Reader) // openssl makes keys for all purposes
	own, _ := pub.(*ecdsa.PublicKey).ECDH()
	want, _ := peer.ECDH(own)
	if got, err := theirs.(providers.Agreer).Agree(t.Context(), peer.PublicKey().Bytes()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("our agreement with openssl's key: %x, %v", got, err)
	}
	both := opened[providers.RSADecrypter](t, p, "theirs.both")
	pub, _ = x509.ParsePKIXPublicKey(publicOf(t, both))
	sealed, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, pub.(*rsa.PublicKey), message, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := both.DecryptRSA(t.Context(), providers.RSAOAEP, sealed); err != nil || !bytes.Equal(got, message) {
		t.Errorf("our decryption with openssl's key: %q, %v", got, err)
	}
	sig, err = both.(providers.Signer).Sign(t.Context(), providers.RSAPKCS1, message)
	if err != nil || rsa.VerifyPKCS1v15(pub.(*rsa.PublicKey), crypto.SHA256, digest[:], sig) != nil {
		t.Error("our RSA signature with openssl's key is not good:", err)
	}
}

// TestTools: tpm2-tools load a key file of this package and use it with its authorisation value, and this package uses one of theirs.
func TestTools(t *testing.T) {
	s := newTPM(t)
	config := withAuth(t, s.config(t))
	config.PersistRoot = true
	p := open(t, config)
	key := generate[providers.Signer](t, p, "ec", providers.ECP256)
	spki := publicOf(t, key)
	mac := generate[providers.MACer](t, p, "mac", providers.HMACSHA256)
	sum, err := mac.MAC(t.Context(), []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	decrypter := generate[providers.RSADecrypter](t, p, "rsa.decrypt", providers.RSA2048)
	rsaPub, _ := x509.ParsePKIXPublicKey(publicOf(t, decrypter))
	c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, rsaPub.(*rsa.PublicKey), []byte("message"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decrypter.DecryptRSA(t.Context(), providers.RSAOAEP256, c); err != nil || string(got) != "message" {
		t.Errorf("OAEP with SHA-256: %q, %v", got, err)
	}
	_, err = decrypter.DecryptRSA(t.Context(), providers.RSAOAEP, c)
	code(t, "OAEP with the wrong hash", err, providers.VerificationFailed)
	area, parts, pair := key.(*signer).stored.file, mac.(*macKey).stored.file, decrypter.(*rsaDecrypter).stored.file
	p.Close()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "rsa.pub"), string(sized(pair.public)))
	write(t, filepath.Join(dir, "rsa.priv"), string(sized(pair.private)))
	write(t, filepath.Join(dir, "sealed"), string(c))
	write(t, filepath.Join(dir, "message"), "message")
	write(t, filepath.Join(dir, "ec.pub"), string(sized(area.public)))
	write(t, filepath.Join(dir, "ec.priv"), string(sized(area.private)))
	write(t, filepath.Join(dir, "mac.pub"), string(sized(parts.public)))
	write(t, filepath.Join(dir, "mac.priv"), string(sized(parts.private)))

	// With -r FILE.pem, version 5.4 does not even load what its own tpm2_encodeobject writes.
	tool(t, s, dir, nil, "tpm2_load", "-C", "0x81000001", "-u", "ec.pub", "-r", "ec.priv", "-c", "ec.ctx")
	tool(t, s, dir, nil, "tpm2_sign", "-c", "ec.ctx", "-g", "sha256", "-p", testAuth, "-f", "plain", "-o", "sig", "message")
	sig, err := os.ReadFile(filepath.Join(dir, "sig"))
	if err != nil {
		t.Fatal(err)
	}
	pub, _ := x509.ParsePKIXPublicKey(spki)
	digest := sha256.Sum256([]byte("message"))
	if !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("the signature of tpm2_sign is not good")
	}
	tool(t, s, dir, nil, "tpm2_flushcontext", "-t")
	tool(t, s, dir, nil, "tpm2_load", "-C", "0x81000001", "-u", "mac.pub", "-r", "mac.priv", "-c", "mac.ctx")
	if got := tool(t, s, dir, nil, "tpm2_hmac", "-c", "mac.ctx", "-p", testAuth, "--hex", "message"); !strings.Contains(string(got), hexOf(sum)) {
		t.Errorf("tpm2_hmac says %s, not %x", got, sum)
	}
	tool(t, s, dir, nil, "tpm2_flushcontext", "-t")
	tool(t, s, dir, nil, "tpm2_load", "-C", "0x81000001", "-u", "rsa.pub", "-r", "rsa.priv", "-c", "rsa.ctx")
	if got := tool(t, s, dir, nil, "tpm2_rsadecrypt", "-c", "rsa.ctx", "-p", testAuth, "-s", "oaep", "sealed"); string(got) != "message" {
		t.Errorf("tpm2_rsadecrypt says %q", got)
	}
	tool(t, s, dir, nil, "tpm2_flushcontext", "-t")

	// One of theirs: an HMAC key, as a TSS2 PEM file. (With -p, version 5.4 says that there is no authorisation value.)
	tool(t, s, dir, nil, "tpm2_create", "-C", "0x81000001", "-G", "hmac", "-p", testAuth, "-u", "their.pub", "-r", "their.priv")
	tool(t, s, dir, nil, "tpm2_encodeobject", "-C", "0x81000001", "-u", "their.pub", "-r", "their.priv", "-o", filepath.Join(config.Folder, "theirs.1.pem"))
	p = open(t, config)
	if _, err := opened[providers.MACer](t, p, "theirs").MAC(t.Context(), nil); err != nil {
		t.Error("the key of tpm2_encodeobject:", err)
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, x := range b {
		s.WriteByte(digits[x>>4])
		s.WriteByte(digits[x&15])
	}
	return s.String()
}

// TestImportedMAC: an imported key computes what crypto/hmac does.
func TestImportedMAC(t *testing.T) {
	p := open(t, newTPM(t).config(t))
	key := bytes.Repeat([]byte{3}, 32)
	if _, err := p.Import(t.Context(), "mac", providers.HMACSHA256, key); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1023, 1024, 1025, 2048, 5000, maxData} {
		message := bytes.Repeat([]byte{byte(n)}, n)
		got, err := opened[providers.MACer](t, p, "mac").MAC(t.Context(), message)
		h := hmac.New(sha256.New, key)
		h.Write(message)
		if err != nil || !bytes.Equal(got, h.Sum(nil)) {
			t.Errorf("%d bytes: %x, %v", n, got, err)
		}
	}
	for range 600 { // random authorisation values of sequences, some of which end with zero
		if _, err := opened[providers.MACer](t, p, "mac").MAC(t.Context(), make([]byte, 1025)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedFiles: a key whose file is damaged is Corrupt, and the provider is not well.
func TestDamagedFiles(t *testing.T) {
	p := open(t, newTPM(t).config(t))
	key := generate[providers.Signer](t, p, "sign", providers.ECP256)
	if err := p.Health(t.Context()); err != nil {
		t.Fatal(err)
	}
	good := key.(*signer).stored
	file := *good.file
	file.private = bytes.Clone(file.private)
	file.private[40] ^= 1
	b, err := file.encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(b), "", "nonsense"} {
		write(t, good.path, text)
		code(t, "health", p.Health(t.Context()), providers.Corrupt)
	}
	_, err = p.Open(t.Context(), "sign", 1)
	code(t, "opening", err, providers.Corrupt)
	if infos, err := p.Keys(t.Context()); err != nil || len(infos) != 0 {
		t.Errorf("%v, %v", infos, err)
	}
}

// TestLargeKeys: a size that the chip does not have is NotSupported.
func TestLargeKeys(t *testing.T) {
	p := open(t, newTPM(t).config(t))
	if _, err := p.Generate(t.Context(), "large", providers.RSA4096); err != nil {
		code(t, "a large key", err, providers.NotSupported)
	}
}

// TestKeyFile: what is in a file is what the draft says, and what others may leave out is understood.
func TestKeyFile(t *testing.T) {
	p := open(t, newTPM(t).config(t))
	key := generate[providers.Signer](t, p, "ec", providers.ECP256)
	text, err := os.ReadFile(key.(*signer).stored.path)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "TSS2 PRIVATE KEY" || len(rest) > 0 {
		t.Fatalf("%s", text)
	}
	for n := range block.Bytes {
		b := bytes.Clone(block.Bytes)
		b[n] ^= 0x10
		var k stored
		_ = k.parse(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: b})) // must not panic
		var short stored
		if err := short.parse(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes[:n]})); err == nil {
			t.Errorf("a key file of %d bytes is taken", n)
		}
	}
}
