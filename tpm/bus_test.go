// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/mslkeep/mslkeep/providers"
)

// A bus is between a provider and its chip. It records all, and can change it.
type bus struct {
	socket, chip string
	mu           sync.Mutex
	record       bytes.Buffer
	counts       map[tpm2.TPMCC]uint64
	hooks        sync.Mutex // one runs at a time
	// meddle is asked about each command, from the goroutine of the connection. It may answer in the chip's place, or cut the
	// connection off by returning false.
	meddle func(cc tpm2.TPMCC, command []byte) (response []byte, ok bool)
	// answer may change a response, or cut the connection off by returning nil.
	answer func(cc tpm2.TPMCC, response []byte) []byte
}

func newBus(t testing.TB, s *swtpm) *bus {
	t.Helper()
	b := &bus{socket: filepath.Join(s.dir, "bus"), chip: s.socket, counts: make(map[tpm2.TPMCC]uint64)}
	l, err := net.Listen("unix", b.socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { b.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return b
}

func (b *bus) serve(conn net.Conn) {
	defer conn.Close()
	chip, err := net.Dial("unix", b.chip)
	if err != nil {
		return
	}
	defer chip.Close()
	for {
		command, err := frame(conn)
		if err != nil {
			return
		}
		cc := tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))
		b.mu.Lock()
		b.record.Write(command)
		b.counts[cc]++
		meddle, answer := b.meddle, b.answer
		b.mu.Unlock()
		var response []byte
		if meddle != nil {
			var ok bool
			b.hooks.Lock()
			response, ok = meddle(cc, command)
			b.hooks.Unlock()
			if !ok {
				return
			}
		}
		if response == nil {
			if _, err := chip.Write(command); err != nil {
				return
			}
			if response, err = frame(chip); err != nil {
				return
			}
		}
		if answer != nil {
			b.hooks.Lock()
			response = answer(cc, response)
			b.hooks.Unlock()
			if response == nil {
				return
			}
		}
		b.mu.Lock()
		b.record.Write(response)
		b.mu.Unlock()
		if _, err := conn.Write(response); err != nil {
			return
		}
	}
}

func frame(r io.Reader) ([]byte, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	whole := append(header, make([]byte, binary.BigEndian.Uint32(header[2:])-headerSize)...)
	_, err := io.ReadFull(r, whole[headerSize:])
	return whole, err
}

func (b *bus) set(meddle func(tpm2.TPMCC, []byte) ([]byte, bool)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.meddle = meddle
}

func (b *bus) setAnswer(answer func(tpm2.TPMCC, []byte) []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = answer
}

// seen reports whether something has crossed the bus in clear.
func (b *bus) seen(secret []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.record.Bytes(), secret)
}

func (b *bus) config(t testing.TB) Config {
	return Config{Device: "swtpm:unix:" + b.socket, Folder: t.TempDir()}
}

// refusal is a response that is an error code.
func refusal(rc tpm2.TPMRC) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, uint32(rc))
}

const testAuth = "an-authorisation-value-12345" // 28 bytes

func withAuth(t testing.TB, c Config) Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth")
	write(t, path, testAuth+"\n")
	c.AuthSource = "file:" + path
	return c
}

// generate makes a key and opens it.
func generate[K any](t testing.TB, p *Provider, name string, kt providers.KeyType) K {
	t.Helper()
	if _, err := p.Generate(t.Context(), name, kt); err != nil {
		t.Fatal(err)
	}
	return opened[K](t, p, name)
}

func opened[K any](t testing.TB, p providers.Provider, name string) K {
	t.Helper()
	k, err := p.Open(t.Context(), name, 0)
	if err != nil {
		t.Fatal(err)
	}
	able, ok := k.(K)
	if !ok {
		t.Fatalf("key %s is a %T", name, k)
	}
	return able
}

// TestBus records all that goes to the chip and comes from it, and finds no secret in it.
func TestBus(t *testing.T) {
	bus := newBus(t, newTPM(t))
	p := open(t, withAuth(t, bus.config(t)))
	ctx := t.Context()
	secrets := map[string][]byte{"the authorisation value": []byte(testAuth)}

	key := make([]byte, 32)
	rand.Read(key)
	secrets["an imported HMAC key"] = key
	if _, err := p.Import(ctx, "mac", providers.HMACSHA256, key); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 3000)
	rand.Read(message)
	for _, n := range []int{100, 3000} {
		sum, err := opened[providers.MACer](t, p, "mac").MAC(ctx, message[:n])
		if err != nil {
			t.Fatal(err)
		}
		secrets["a MAC"], secrets["a message"] = sum, message[n-32:n]
		if bus.seen(sum) || bus.seen(message[n-32:n]) {
			t.Errorf("a message of %d bytes or its MAC is on the bus", n)
		}
	}

	key = make([]byte, 32)
	rand.Read(key)
	secrets["a sealed key"] = key
	if _, err := p.Import(ctx, "storage", providers.AES256, key); err != nil {
		t.Fatal(err)
	}
	if _, err := opened[providers.Encrypter](t, p, "storage").Encrypt(ctx, providers.AESGCM, make([]byte, 12), []byte("plain"), nil); err != nil {
		t.Fatal(err)
	}

	plain, iv := make([]byte, 64), make([]byte, 16)
	rand.Read(plain)
	rand.Read(iv)
	cipherKey := generate[providers.Encrypter](t, p, "cipher", providers.AES128)
	c, err := cipherKey.Encrypt(ctx, providers.AESCBC, iv, plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cipherKey.(providers.Decrypter).Decrypt(ctx, providers.AESCBC, iv, c, nil); err != nil {
		t.Fatal(err)
	}
	secrets["a plaintext"] = plain[:32]
	public := iv // is seen, so the search is known to work

	rsaKey := generate[providers.RSADecrypter](t, p, "rsa.decrypt", providers.RSA2048)
	pub, _ := x509.ParsePKIXPublicKey(publicOf(t, rsaKey))
	plain = make([]byte, 32)
	rand.Read(plain)
	c, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, pub.(*rsa.PublicKey), plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := rsaKey.DecryptRSA(ctx, providers.RSAOAEP, c); err != nil || !bytes.Equal(got, plain) {
		t.Fatal(err)
	}
	secrets["an OAEP plaintext"] = plain

	peer, _ := ecdh.P256().GenerateKey(rand.Reader)
	z, err := generate[providers.Agreer](t, p, "ec.agree", providers.ECP256).Agree(ctx, peer.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	secrets["an agreed secret"] = z
	imported, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	importedRSA, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := imported.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	secrets["an imported scalar"], secrets["an imported prime"] = scalar, importedRSA.Primes[0].Bytes()
	for name, key := range map[string]any{"imported": imported, "imported.rsa": importedRSA} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		kt := map[string]providers.KeyType{"imported": providers.ECP256, "imported.rsa": providers.RSA2048}[name]
		if _, err := p.Import(ctx, name, kt, der); err != nil {
			t.Fatal(err)
		}
		if _, err := opened[providers.Signer](t, p, name).Sign(ctx, map[string]providers.Mechanism{"imported": providers.ECDSAP256, "imported.rsa": providers.RSAPKCS1}[name], nil); err != nil {
			t.Fatal(err)
		}
	}
	wrapper := generate[providers.Wrapper](t, p, "aes.wrap", providers.AES128)
	key = make([]byte, 16)
	rand.Read(key)
	secrets["a key that is wrapped"], secrets["half of it"] = key, key[:8]
	wrapped, err := wrapper.Wrap(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := wrapper.(providers.Unwrapper).Unwrap(ctx, wrapped); err != nil || !bytes.Equal(got, key) {
		t.Fatal(err)
	}
	for e, err := range p.Endorsements(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.Public[2:])
		if err != nil {
			t.Fatal(err)
		}
		to, err := tpm2.ImportEncapsulationKey(area)
		if err != nil {
			t.Fatal(err)
		}
		inside := make([]byte, 32)
		rand.Read(inside)
		credential, encrypted, err := tpm2.CreateCredential(rand.Reader, to, opened[*signer](t, p, "imported").stored.name.Buffer, inside)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Activate(ctx, e, "imported", 0, credential, encrypted); err != nil || !bytes.Equal(got, inside) {
			t.Fatalf("%s: %x, %v", e.Name, got, err)
		}
		secrets["what is in a credential for "+e.Name] = inside
	}
	random, err := p.Random(ctx, 32)
	if err != nil {
		t.Fatal(err)
	}
	secrets["random bytes"] = random

	for what, s := range secrets {
		if bus.seen(s) {
			t.Errorf("%s is on the bus", what)
		}
	}
	if !bus.seen(public) {
		t.Error("the search finds not even what is there")
	}
}

func publicOf(t testing.TB, k any) []byte {
	t.Helper()
	der, err := k.(providers.PublicKeyer).PublicKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return der
}
