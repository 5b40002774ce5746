// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/memscan"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

var demo = flag.Bool("demo", false, "tell what TestFullDeployment does, as make demo-full shows it")

// TestFullDeployment is the deployment that this project exists for, and what make demo-full shows: the server's keys are in
// an HSM, a sensor's in a TPM, and the key that wraps the pre-shared keys of thousands of devices in Vault. Messages of
// several kinds are sent, and Vault is sealed, its key rotated, a device revoked and another cut from its power meanwhile.
// Then the memory of all processes is searched for every key.
func TestFullDeployment(t *testing.T) {
	needBackEnds(t)
	f := newDeployment(t)
	f.serve()
	f.messages()
	f.outages()
	f.search()
}

// needBackEnds says what is not installed.
func needBackEnds(t testing.TB) {
	t.Helper()
	var missing []string
	for program, debian := range map[string]string{"softhsm2-util": "softhsm2", "swtpm": "swtpm", "cc": "gcc"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, debian)
		}
	}
	switch text := "not installed; on Debian: apt-get install " + strings.Join(missing, " "); {
	case missing == nil:
	case *demo:
		t.Fatal(text)
	default:
		t.Skip(text)
	}
}

// records is how many devices have a pre-shared key in the database.
const records = 3000

// A deployment is a server with all three back ends, and devices.
type deployment struct {
	*system
	vault  *vaulttest.Server
	front  string  // where the provider finds Vault
	tpm    *device // sensor-1
	meter  *talk   // the process of a device whose pre-shared key is in the records, device-0042
	ada    *talk   // of the same device on behalf of a user
	sensor *talk
	agents map[string]int // that have been protocol processes' agents lately, by name
	keys   []memscan.Key  // that are known from the start
}

func (f *deployment) say(format string, args ...any) {
	if *demo {
		fmt.Printf(format+"\n", args...)
	} else {
		f.t.Logf(format, args...)
	}
}

const vaultProvider = `[[providers]]
name = "vault"
binary = %q
sha256 = %q
[providers.settings]
address = %q
ca = %q
keys = { entities = "aes-256" }
[providers.settings.auth]
method = "approle"
role-id = %q
secret-id = %q
`

// newDeployment makes it, and says where each key is.
func newDeployment(t *testing.T) *deployment {
	if *demo {
		fmt.Println("Building mslkeep, and a Vault if it is the first time …")
	}
	f := &deployment{vault: vaulttest.Start(t, vaulttest.Options{TLS: true})}
	f.front = f.vault.Address
	f.system = newSystem(t, 10*time.Second, "key-log = \"key.log\"\n")
	f.say("\nWhere each key of this run is:")
	f.makeHSMKeys()
	f.say("  SoftHSM   the server's token keys, service keys, storage key and identity; none can leave it")
	f.openVault()
	f.say("  Vault     the key that wraps pre-shared keys; the server's agent may use it, and no other, by the exact policy")
	size := f.importRecords(func(i int, key []byte) {
		if i == 42 || i == 43 {
			write(f.t, f.path("psk"), hex.EncodeToString(key))
			f.system.keys("device/keys.toml", "import", "--file", f.path("psk"), fmt.Sprintf("psk/device-%04d", i))
		}
	})
	if err := os.Remove(f.path("psk")); err != nil {
		t.Fatal(err)
	}
	f.say("  SQLite    %d pre-shared keys, wrapped, each bound to its device: %d kB, which nobody can use without Vault", records, size>>10)
	f.enrol()
	f.say("  swtpm     sensor-1's keys: of its identity, which was enrolled by proof of its TPM, of exchanges, of its storage")
	f.say("  a file    device-0042's pre-shared key, encrypted: the software provider of its own agent")
	return f
}

// makeHSMKeys puts keys that the search knows into the HSM, and makes the server's identity there.
func (f *deployment) makeHSMKeys() {
	f.keys = slices.Concat(
		f.importKey("hsm:token-keys", "keyset", 16, 32, 16),
		f.importKey("hsm:service/default", "keyset", 16, 32, 16),
		f.importKey("hsm:storage", "aes-256", 32),
		[]memscan.Key{{Label: "hsm PIN", Bytes: []byte(testPIN)}})
	f.system.keys("server/hsm.toml", "generate", "--type", "rsa-2048", "hsm:rsa/server")
	write(f.t, f.path("server.pem"), f.system.keys("server/hsm.toml", "public", "hsm:rsa/server"))
}

// openVault makes a key in Vault, and lets the server's agent use it as mslkeep vault policy says.
func (f *deployment) openVault() {
	v := f.vault
	v.Do("POST", "transit/keys/entities", `{"type":"aes256-gcm96"}`, nil)
	provider := f.build("mslkeep-provider-vault")
	secretFile := f.path("server/secret-id")
	text, err := os.ReadFile(f.path("server/agent.toml"))
	if err != nil {
		f.t.Fatal(err)
	}
	roles := serverRoles + "record-key = \"vault:entities\"\nrsa-prefix = \"hsm:rsa/\"\npsk-prefix = \"none/\"\n"
	configure := func(roleID string) {
		section := fmt.Sprintf(vaultProvider, provider, sum(f.t, provider), f.front, v.CA, roleID, "file:"+secretFile)
		write(f.t, f.path("server/agent.toml"), strings.Replace(string(text), serverRoles, roles, 1)+section)
	}
	configure("not known yet")
	write(f.t, f.path("server/vault.toml"), "[agent]\n"+f.startsAgent("server/agent.toml"))
	policy := f.run("mslkeep", "vault", "policy", "--config", f.path("server/vault.toml"))
	roleID, secretID := v.AppRole("mslkeep", policy, "")
	id := secretID("")
	write(f.t, secretFile, id)
	configure(roleID)
	f.run("mslkeep", "vault", "policy", "--config", f.path("server/vault.toml"), "--check")
	for label, text := range map[string]string{"root token": v.Token, "unseal key": v.Key, "secret id": id} {
		f.keys = append(f.keys, memscan.Key{Label: "vault " + label, Bytes: []byte(text)})
	}
}

// build builds a command, without C.
func (f *deployment) build(name string) string {
	f.t.Helper()
	path := filepath.Join(binaries, name)
	cmd := exec.Command("go", "build", "-o", path, "github.com/mslkeep/mslkeep/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
	return path
}

// importRecords imports pre-shared keys of thousands of devices, each of which own gets, too. It returns the database's size.
func (f *deployment) importRecords(own func(i int, key []byte)) int64 {
	password := strings.ToLower(rand.Text())
	write(f.t, f.path("password"), password)
	hash := exec.Command(tool(f.t, "mslkeep"), "password")
	hash.Stdin = strings.NewReader(password + "\n")
	hashed, err := hash.Output()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.Mkdir(f.path("devices"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	write(f.t, f.path("server/full.toml"), fmt.Sprintf(serveFile, f.startsAgent("server/agent.toml"))+fmt.Sprintf(`[[serve.users]]
email = "ada@example.com"
user = "ada"
password-hash = %q
[peers]
public-key-directory = %q
[entities]
database = "sqlite:entities.db"
`, strings.TrimSpace(string(hashed)), f.path("devices")))
	var csv strings.Builder
	for i := range records {
		key := make([]byte, 48)
		rand.Read(key)
		fmt.Fprintf(&csv, "device-%04d,%x\n", i, key)
		label := fmt.Sprintf("psk %d ", i)
		f.keys = append(f.keys, memscan.Key{Label: label + "enc", Bytes: key[:16]}, memscan.Key{Label: label + "mac", Bytes: key[16:]})
		own(i, key)
	}
	write(f.t, f.path("devices.csv"), csv.String())
	f.run("mslkeep", "entities", "import", "--config", f.path("server/full.toml"), f.path("devices.csv"))
	if err := os.Remove(f.path("devices.csv")); err != nil {
		f.t.Fatal(err)
	}
	info, err := os.Stat(f.path("server/entities.db"))
	if err != nil {
		f.t.Fatal(err)
	}
	return info.Size()
}

// enrol makes a device with a TPM, and has mslkeep-enrol take it for sensor-1.
func (f *deployment) enrol() {
	f.tpm = newDevice(f.system, "sensor-1", "")
	path := f.build("mslkeep-enrol")
	mslkeepEnrol := func(args ...string) []byte {
		out, err := exec.Command(path, args...).Output()
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			f.t.Fatalf("mslkeep-enrol %s: %v: %s", args, err, e.Stderr)
		}
		return out
	}
	chip := f.tpm.chip.address()
	write(f.t, f.path("endorsement-keys"), string(mslkeepEnrol("endorsement", "--identity", "sensor-1", "--tpm", chip)))
	p := start(f.t, path, "serve", "--listen", "127.0.0.1:0", "--devices", f.path("devices"), "--endorsement-keys", f.path("endorsement-keys"))
	url := strings.TrimSpace(strings.TrimPrefix(p.line(), "enrolling at "))
	mslkeepEnrol("enrol", "--identity", "sensor-1", "--url", url, "--keys", f.tpm.file("tpm"), "--tpm", chip)
	p.end(syscall.SIGTERM)
}

// serve starts the server.
func (f *deployment) serve() {
	f.agent = f.serveAs("server/full.toml")
	f.agents = map[string]int{"the server's agent": f.agent}
	f.say("\nA server at %s, and what it is asked:", f.url)
}

// device starts a process that sends as an entity with a pre-shared key.
func (f *deployment) device(identity string, more ...string) *talk {
	f.t.Helper()
	config := f.path("device/" + identity + ".toml")
	write(f.t, config, fmt.Sprintf("[agent]\n%s[entity]\nscheme = \"PSK\"\nidentity = %q\n[peers]\nidentity = \"server\"\n[[peers.rsa]]\nkey-id = \"server\"\npublic-key-file = %q\nidentities = [\"server\"]\n",
		f.startsAgent("device/agent.toml"), identity, f.path("server.pem")))
	return f.sender(append([]string{"--config", config, "--url", f.url}, more...)...)
}

// sender starts a process that sends what it reads.
func (s *system) sender(args ...string) *talk {
	s.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	k := &talk{process: startReading(s.t, r, tool(s.t, "mslkeep"), append([]string{"send", "--lines", "--json"}, args...)...), in: w}
	r.Close()
	s.t.Cleanup(func() { w.Close() })
	return k
}

// message sends one, which must succeed, and tells of it.
func (f *deployment) message(what string, k *talk, text string, exchanged bool) {
	f.t.Helper()
	began := time.Now()
	k.must(text, exchanged)
	f.say("  %-84s %7.1f ms", what, time.Since(began).Seconds()*1e3)
}

func (f *deployment) messages() {
	f.sensor = f.tpm.talkECC()
	f.meter = f.device("device-0042")
	f.ada = f.device("device-0042", "--user", "ada", "--email", "ada@example.com", "--password-file", f.path("password"), "--non-replayable", "--compression", "GZIP")
	f.message("sensor-1: signs with its TPM, and gets session keys, which its TPM decrypts", f.sensor, "hello", true)
	f.message("sensor-1: again, under the session's keys: neither TPM nor HSM is asked", f.sensor, "hello again", false)
	f.message("device-0042: its record is unwrapped by Vault, its token sealed by the HSM", f.meter, "hello", true)
	f.message("device-0042: a MiB, under the session's keys", f.meter, strings.Repeat("a long message ", 70_000), false)
	f.message("device-0042: on behalf of Ada, who has a password; accepted at most once", f.ada, "my name is Ada", true)
	f.message("device-0042: for Ada again, known by her token now; compressed", f.ada, "it is still me", false)
}

// talkECC starts a process of a device with an enrolled key.
func (d *device) talkECC() *talk {
	d.t.Helper()
	config := d.file("send.toml")
	write(d.t, config, fmt.Sprintf("[agent]\n%s[entity]\nscheme = \"ECC\"\nidentity = %q\nkey-id = %q\n[peers]\nidentity = \"server\"\n[[peers.rsa]]\nkey-id = \"server\"\npublic-key-file = %q\nidentities = [\"server\"]\n[msl]\nkey-exchanges = [%q]\n[send]\nurl = %q\nstore = %q\n",
		d.startsAgent(d.name+"/agent.toml"), d.name, d.name, d.path("server.pem"), rsaExchange, d.url, d.file("store")))
	k := d.sender("--config", config)
	k.d = d
	return k
}

// outages does what happens to a deployment.
func (f *deployment) outages() {
	f.sensor.reboot()
	f.sensor = f.tpm.talkECC()
	f.message("sensor-1: its power is cut; its TPM unseals the session, and nothing is exchanged", f.sensor, "back again", false)

	f.vault.Seal()
	f.message("Vault is sealed: sessions go on", f.meter, "are you there?", false)
	cold := f.device("device-0043")
	if s := cold.say("hello"); s.Error == "" {
		f.t.Error("a device was let in while Vault was sealed")
	}
	f.vault.Unseal()
	began := time.Now()
	eventually(f.t, "Vault is used again", func() bool { return cold.say("hello").Error == "" })
	f.say("  %-84s %7.1f ms", "Vault is unsealed: device-0043, who was told to come back later, is let in", time.Since(began).Seconds()*1e3)

	f.vault.Do("POST", "transit/keys/entities/rotate", "{}", nil)
	began = time.Now()
	f.run("mslkeep", "entities", "rewrap", "--config", f.path("server/full.toml"))
	f.say("  %-84s %7.1f ms", fmt.Sprintf("Vault's key is rotated, and %d records are wrapped anew while the server runs", records), time.Since(began).Seconds()*1e3)
	f.message("device-0042: has noticed nothing", f.meter, "hello", false)

	f.run("mslkeep", "entities", "remove", "--config", f.path("server/full.toml"), "device-0043")
	began = time.Now()
	if s := cold.say("hello"); s.Error == "" {
		f.t.Error("a device that was revoked was let in")
	}
	f.say("  %-84s %7.1f ms", "device-0043 is revoked: its next message is refused, whatever tokens it has", time.Since(began).Seconds()*1e3)
	cold.hangUp()
}

// search looks for every key of the run in all processes of the run: there is none in those that speak MSL, and no key of the
// HSM, nor what opens HSM and Vault, in their agents either.
func (f *deployment) search() {
	keys := f.keys
	for _, who := range []string{"server", "device", "sensor-1"} {
		log, err := os.Open(f.path(who + "/key.log"))
		if err != nil {
			f.t.Fatal(err)
		}
		logged, err := memscan.ReadKeyLog(bufio.NewReader(log))
		log.Close()
		if err != nil {
			f.t.Fatal(err)
		}
		keys = append(keys, logged...)
	}
	f.say("\nSearching the memory of these processes for %d keys and what opens HSM and Vault, in every form:", len(keys))
	for _, p := range []struct {
		name            string
		protocol, agent int
		holds           string
	}{
		{"server", f.server.pid(), f.agent, "session keys, and the pre-shared keys of those who were there"},
		{"sensor-1", f.sensor.pid(), f.sensor.agent, "its session's keys"},
		{"device-0042", f.meter.pid(), f.meter.agent, "pre-shared keys, storage key, session keys"},
		{"device-0042, Ada", f.ada.pid(), f.ada.agent, "the same, and another session's keys"},
	} {
		outside, err := scan(f.t, keys, p.protocol)
		if err != nil {
			f.t.Fatal(err)
		}
		inside, err := scan(f.t, keys, p.agent)
		if err != nil {
			f.t.Fatal(err)
		}
		f.say("  %-17s process %7d: %d    its agent %7d: %2d (%s)", p.name, p.protocol, len(outside), p.agent, len(inside), p.holds)
		if len(outside) > 0 {
			f.t.Errorf("%s, a process that speaks MSL, holds %q", p.name, outside)
		}
		if !slices.ContainsFunc(inside, func(label string) bool { return strings.Contains(label, "session") }) {
			f.t.Errorf("the agent of %s seems to hold no session key, but %q: the search is broken", p.name, inside)
		}
		if slices.ContainsFunc(inside, func(label string) bool { return strings.HasPrefix(label, "hsm ") || strings.HasPrefix(label, "vault ") }) {
			f.t.Errorf("the agent of %s holds %q", p.name, inside)
		}
	}
	if !f.t.Failed() {
		f.say("\nNo process that speaks MSL holds a key. The agents hold those of sessions, so the search works.")
	}
}
