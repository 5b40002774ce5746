// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var tpmProvider = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaries, "mslkeep-provider-tpm")
	cmd := exec.Command("go", "build", "-o", path, "github.com/mslkeep/mslkeep/cmd/mslkeep-provider-tpm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// A device has all its keys in a chip: those of entity authentication, of key exchanges, of its pre-shared key, and the one that
// seals sessions.
type device struct {
	*system
	name string // of its folder
	chip *chip
}

const tpmRoles = `storage-key = "tpm:storage"
exchange-key = "tpm:exchange"
`

const tpmAgent = fileKeys + tpmRoles + `psk-prefix = "tpm:psk/"
rsa-prefix = "tpm:rsa/"
ec-prefix = "tpm:ec/"
key-log = "key.log"
allow = ["RSA"]
[limits]
age = "10m"
[[providers]]
name = "tpm"
binary = %q
sha256 = %q
timeout = "20s"
[providers.settings]
device = %q
folder = %q
persist-srk = true
decrypting = ["exchange"]
`

// sealPSK has pre-shared keys rest sealed; else they are used in the chip.
const sealPSK = "sealed = [\"storage\", \"psk/*\"]\n"

// newDevice makes a device and its keys. Its identity is its name. more is added to the provider's settings.
func newDevice(s *system, name, more string) *device {
	s.t.Helper()
	d := &device{s, name, newChip(s.t)}
	path, err := tpmProvider()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, dir := range []string{"", "/tpm"} {
		if err := os.Mkdir(s.path(name+dir), 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	agent := fmt.Sprintf(tpmAgent, path, sum(s.t, path), d.chip.address(), d.file("tpm")) + more
	write(s.t, d.file("agent.toml"), agent)
	write(s.t, d.file("bare.toml"), strings.Replace(agent, tpmRoles, "", 1)) // which needs none of the keys
	write(s.t, d.file("keys.toml"), "[agent]\n"+s.startsAgent(name+"/bare.toml"))
	s.run("mslkeep-agent", "init", "--config", d.file("agent.toml"))
	return d
}

// file returns the path of a file of the device.
func (d *device) file(name string) string { return d.path(filepath.Join(d.name, name)) }

// serveDevices starts the server, such that it knows the devices: their public keys, and who has made their certificates. more
// is added to the section [msl].
func (s *system) serveDevices(more string) {
	s.t.Helper()
	write(s.t, s.path("server/devices.toml"), strings.Replace(fmt.Sprintf(serveFile, s.startsAgent("server/agent.toml")), "[msl]\n", "[msl]\n"+more, 1)+
		fmt.Sprintf("[peers]\npublic-key-directory = %q\nx509-roots-file = %q\n", s.path("devices"), s.path("root.pem")))
	s.agent = s.serveAs("server/devices.toml")
}

// know makes the folder of public keys and a root that certifies keys of devices.
func (s *system) know() (certify func(subject string, public any) []byte) {
	s.t.Helper()
	if err := os.Mkdir(s.path("devices"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	sign := func(c *x509.Certificate, public any) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, root, public, ca)
		if err != nil {
			s.t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	write(s.t, s.path("root.pem"), string(sign(root, &ca.PublicKey)))
	return func(subject string, public any) []byte {
		return sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: subject}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}, public)
	}
}

// identify makes the device's key pairs, and tells the server of them. The key pair of its certificate is that of RSA.
func (d *device) identify(certify func(string, any) []byte) {
	d.t.Helper()
	for kind, keyType := range map[string]string{"rsa": "rsa-2048", "ec": "ec-p256"} {
		id := d.name + "-" + kind
		d.keys(d.name+"/keys.toml", "generate", "--type", keyType, "tpm:"+kind+"/"+id)
		text := d.keys(d.name+"/keys.toml", "public", "tpm:"+kind+"/"+id)
		write(d.t, d.path("devices/"+id+".pem"), text)
		if kind != "rsa" {
			continue
		}
		block, _ := pem.Decode([]byte(text))
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			d.t.Fatal(err)
		}
		write(d.t, d.file("cert.pem"), string(certify(d.name, public)))
	}
}

// share gives both sides a pre-shared key, the server's in its agent's file.
func (d *device) share() {
	d.t.Helper()
	psk := d.file("psk")
	write(d.t, psk, d.run("mslkeep-agent", "random", "48"))
	d.keys(d.name+"/keys.toml", "import", "--file", psk, "tpm:psk/"+d.name)
	d.keys("server/keys.toml", "import", "--file", psk, "psk/"+d.name)
	if err := os.Remove(psk); err != nil {
		d.t.Fatal(err)
	}
}

// entity is the section [entity] for a scheme.
func (d *device) entity(scheme string) string {
	switch scheme {
	case "RSA", "ECC":
		id := d.name + map[string]string{"RSA": "-rsa", "ECC": "-ec"}[scheme]
		return fmt.Sprintf("scheme = %q\nidentity = %q\nkey-id = %q\n", scheme, id, id)
	case "X509":
		return fmt.Sprintf("scheme = %q\nkey-id = %q\ncertificate-file = %q\n", scheme, d.name+"-rsa", d.file("cert.pem"))
	}
	return fmt.Sprintf("scheme = %q\nidentity = %q\n", scheme, d.name)
}

// A talk is a process of the device that sends messages, with an agent of its own.
type talk struct {
	*process
	d     *device
	in    io.WriteCloser
	agent int // process id of its agent, of which the last answer came
}

// A said is what comes of a message.
type said struct {
	Bytes       int    `json:"bytes"`
	Encrypted   bool   `json:"encrypted"`
	KeyExchange bool   `json:"key_exchange"`
	AgentPID    int    `json:"agent_pid"`
	Error       string `json:"error"`
}

// talk starts a process of the device. Its tokens and sealed sessions are in the file store.
func (d *device) talk(scheme, exchange, store string) *talk {
	d.t.Helper()
	config := d.file("send-" + scheme + ".toml")
	write(d.t, config, "[agent]\n"+d.startsAgent(d.name+"/agent.toml")+"[entity]\n"+d.entity(scheme)+
		fmt.Sprintf("[peers]\nidentity = \"server\"\n[[peers.rsa]]\nkey-id = \"server\"\npublic-key-file = %q\nidentities = [\"server\"]\n", d.path("server.pem"))+
		fmt.Sprintf("[msl]\nkey-exchanges = [%q]\n[send]\nurl = %q\nstore = %q\n", exchange, d.url, d.file(store)))
	r, w, err := os.Pipe()
	if err != nil {
		d.t.Fatal(err)
	}
	k := &talk{process: startReading(d.t, r, tool(d.t, "mslkeep"), "send", "--config", config, "--lines", "--json"), d: d, in: w}
	r.Close()
	d.t.Cleanup(func() { w.Close() })
	return k
}

// say sends a message.
func (k *talk) say(text string) (s said) {
	k.t.Helper()
	if _, err := io.WriteString(k.in, text+"\n"); err != nil {
		k.t.Fatalf("the device's process: %v; it said: %s", err, k.said)
	}
	if err := json.Unmarshal([]byte(k.line()), &s); err != nil {
		k.t.Fatal(err)
	}
	if s.Error == "" && (s.Bytes != len(text) || !s.Encrypted) {
		k.t.Errorf("%d bytes were answered with %d, encrypted: %v", len(text), s.Bytes, s.Encrypted)
	}
	k.agent = s.AgentPID
	return s
}

// must is say, which must succeed, with a key exchange or without.
func (k *talk) must(text string, exchanged bool) {
	k.t.Helper()
	if s := k.say(text); s.Error != "" || s.KeyExchange != exchanged {
		k.t.Fatalf("%q: key exchange: %v, error: %s", text, s.KeyExchange, s.Error)
	}
}

// hangUp ends the process, and its agent.
func (k *talk) hangUp() {
	k.t.Helper()
	k.in.Close()
	late := time.AfterFunc(patience, func() { k.cmd.Process.Kill() })
	defer late.Stop()
	<-k.done
	eventually(k.t, "the device's agent has ended", func() bool { return k.agent == 0 || gone(k.agent) })
}

// newTPMSystem makes a server on an HSM, which serves, and a device on a TPM that it knows.
func newTPMSystem(t testing.TB, more string) (*system, *device) {
	t.Helper()
	s := newSystem(t, 10*time.Second, "key-log = \"key.log\"\nallow = [\"RSA\"]\n")
	s.makeKeys()
	certify := s.know()
	d := newDevice(s, "tpm-device", more)
	d.identify(certify)
	d.share()
	s.serveDevices("")
	return s, d
}
