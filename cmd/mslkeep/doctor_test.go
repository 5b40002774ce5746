// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
)

const hsmPIN = "canary-pin-4711"

// hsmModel makes a world whose server has its token keys and its storage key in SoftHSM, once; all others are copies.
var hsmModel = sync.OnceValues(func() (string, error) {
	dir := model + "-hsm"
	if out, err := exec.Command("cp", "-a", model, dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	at := func(name string) string { return filepath.Join(dir, "server", name) }
	text, err := os.ReadFile(at("agent.toml"))
	if err != nil {
		return "", err
	}
	run := func(name string, args ...string) (string, error) {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+at("softhsm2.conf"))
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return string(out), err
	}
	section, err := run(filepath.Join(binaries, "mslkeep-agent"), "provider", "hash", filepath.Join(binaries, "mslkeep-provider-pkcs11"), "--name", "hsm",
		"--module", softHSM, "--env", "SOFTHSM2_CONF="+at("softhsm2.conf"), "--token", "pkcs11:token=keys?pin-source=file:"+at("pin"))
	if err != nil {
		return "", err
	}
	agent := strings.NewReplacer(`"storage"`, `"hsm:storage"`, `"token-keys"`, `"hsm:token-keys"`).Replace(string(text)) + section
	for name, text := range map[string]string{"agent.toml": agent, "pin": hsmPIN + "\n", "softhsm2.conf": "directories.tokendir = " + at("tokens") + "\n"} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	if err := os.Mkdir(at("tokens"), 0o700); err != nil {
		return "", err
	}
	if _, err := run("softhsm2-util", "--init-token", "--free", "--label", "keys", "--pin", hsmPIN, "--so-pin", "87654321"); err != nil {
		return "", err
	}
	_, err = run(filepath.Join(binaries, "mslkeep-agent"), "init", "--config", at("agent.toml"))
	return dir, err
})

func newHSMWorld(t *testing.T) *world {
	t.Helper()
	needSoftHSM(t)
	from, err := hsmModel()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "world")}
	if out, err := exec.Command("cp", "-a", from, w.dir).CombinedOutput(); err != nil {
		t.Fatalf("copying the model: %v\n%s", err, out)
	}
	w.edit("server/agent.toml", from, w.dir)
	w.edit("server/softhsm2.conf", from, w.dir)
	return w
}

// doctor returns what doctor has found to be wrong, and all that it has said.
func (w *world) doctor(args ...string) (problems []finding, all []finding) {
	w.t.Helper()
	r := w.mslkeep(append([]string{"doctor", "--json", "--config", w.path("server/serve.toml")}, args...)...)
	if strings.Contains(r.out+r.err, hsmPIN) {
		w.t.Error("doctor tells the PIN")
	}
	all = decoded[[]finding](w.t, r.out)
	for _, x := range all {
		if x.State == "problem" {
			problems = append(problems, x)
		}
	}
	if want := min(len(problems), 1); r.code != want {
		w.t.Errorf("exit code %d with %d problems: %s", r.code, len(problems), r.err)
	}
	return problems, all
}

func hasCheck(list []finding, check, state string) bool {
	for _, x := range list {
		if x.Check == check && x.State == state {
			return true
		}
	}
	return false
}

// Each thing that can be wrong is one finding, with a message and a hint of its own, which serve says too when it does
// not start.
func TestDoctorFinds(t *testing.T) {
	t.Parallel()
	zeros := strings.Repeat("0", 64)
	secondHash := func(w *world) string { // the module's
		return regexp.MustCompile(`sha256 = "[0-9a-f]+"`).FindAllString(w.read("server/agent.toml"), 2)[1]
	}
	firstHash := func(w *world) string {
		return regexp.MustCompile(`sha256 = "[0-9a-f]+"`).FindString(w.read("server/agent.toml"))
	}
	texts, hints := make(map[string]string), make(map[string]string)
	for _, c := range []struct {
		name, check string
		spoil       func(w *world)
	}{
		{"wrong PIN", "pin", func(w *world) { w.write("server/pin", "wrong-"+hsmPIN) }},
		{"PIN file missing", "pin-source", func(w *world) { w.edit("server/agent.toml", "/pin\"", "/none\"") }},
		{"module missing", "module", func(w *world) { w.edit("server/agent.toml", softHSM, softHSM+".none") }},
		{"module's hash", "module-hash", func(w *world) { w.edit("server/agent.toml", secondHash(w), `sha256 = "`+zeros+`"`) }},
		{"token missing", "token", func(w *world) { w.edit("server/agent.toml", "token=keys", "token=none") }},
		{"settings", "provider-settings", func(w *world) { w.edit("server/agent.toml", "pkcs11:token=keys", "token=keys") }},
		{"key missing", "key", func(w *world) { w.edit("server/agent.toml", "hsm:token-keys", "hsm:other") }},
		{"key without mechanism", "key-mechanism", func(w *world) {
			w.write("server/agent.toml", w.read("server/agent.toml")+"without = [\"AES-CBC-PAD\"]\n")
		}},
		{"key of another type", "key-mechanism", func(w *world) { w.edit("server/agent.toml", "hsm:storage", "hsm:token-keys.enc") }},
		{"binary's hash", "provider-hash", func(w *world) { w.edit("server/agent.toml", firstHash(w), `sha256 = "`+zeros+`"`) }},
		{"binary missing", "provider-binary", func(w *world) { w.edit("server/agent.toml", "mslkeep-provider-pkcs11", "none") }},
		{"binary that others can change", "provider-mode", func(w *world) {
			open := w.path("server/provider")
			if out, err := exec.Command("sh", "-c", `cp "$0" "$1" && chmod 777 "$1"`, filepath.Join(binaries, "mslkeep-provider-pkcs11"), open).CombinedOutput(); err != nil {
				w.t.Fatalf("%v: %s", err, out)
			}
			w.edit("server/agent.toml", filepath.Join(binaries, "mslkeep-provider-pkcs11"), open)
		}},
		{"key file damaged", "key-file-damaged", func(w *world) {
			text := []byte(w.read("server/keys"))
			text[len(text)-1] ^= 1
			w.write("server/keys", string(text))
		}},
		{"key file missing", "key-file", func(w *world) { w.edit("server/agent.toml", `keys = "keys"`, `keys = "none"`) }},
		{"key file that others can read", "key-file-mode", func(w *world) {
			if err := os.Chmod(w.path("server/keys"), 0o644); err != nil {
				w.t.Fatal(err)
			}
		}},
		{"wrong unlock key", "unlock-key", func(w *world) { w.write("server/unlock", strings.Repeat("ab", 32)) }},
		{"unlock key missing", "unlock-source", func(w *world) { w.edit("server/agent.toml", "file:unlock", "file:none") }},
		{"field of the agent", "agent-config", func(w *world) { w.write("server/agent.toml", "colour = 1\n"+w.read("server/agent.toml")) }},
		{"field", "config", func(w *world) { w.edit("server/serve.toml", "[serve]", "[serve]\ncolour = 1") }},
		{"agent's hash", "agent-hash", func(w *world) { w.edit("server/serve.toml", "[agent]", "[agent]\nsha256 = \""+zeros+"\"") }},
		{"agent missing", "agent-binary", func(w *world) { w.edit("server/serve.toml", "[agent]", "[agent]\nbinary = \"none\"") }},
		{"own key missing", "key", func(w *world) { w.edit("server/serve.toml", `key-id = "server"`, `key-id = "other"`) }},
		{"record key missing", "record-key", func(w *world) {
			w.write("server/serve.toml", w.read("server/serve.toml")+"[entities]\ndatabase = \"sqlite:entities.db\"\n")
		}},
		{"port taken", "listen", func(w *world) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() { l.Close() })
			w.edit("server/serve.toml", "127.0.0.1:0", l.Addr().String())
		}},
		{"socket taken", "listen", func(w *world) {
			l, err := net.Listen("unix", w.path("taken"))
			if err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() { l.Close() })
			w.edit("server/serve.toml", "127.0.0.1:0", "unix:../taken")
		}},
	} {
		w := newHSMWorld(t)
		c.spoil(w)
		problems, all := w.doctor()
		if len(problems) == 0 || problems[0].Check != c.check {
			t.Errorf("%s: found %+v, not %s", c.name, all, c.check)
			continue
		}
		p := problems[0]
		what := strings.ReplaceAll(p.What, w.dir, "")
		if other := texts[what]; other != "" {
			t.Errorf("%s is said as %s: %s", c.name, other, what)
		}
		texts[what] = c.name
		hint, _, _ := strings.Cut(strings.ReplaceAll(p.Hint, w.dir, "WORLD"), "make it with")
		if other := hints[hint]; p.Hint == "" || other != "" && other != c.check && hint != "" {
			t.Errorf("%s: the hint of %s is %q, which is that of %q", c.name, c.check, p.Hint, other)
		}
		hints[hint] = c.check

		// Once more for serve, because a PIN that was wrong once is not tried again.
		w = newHSMWorld(t)
		c.spoil(w)
		r := w.mslkeep("serve", "--config", w.path("server/serve.toml"))
		if r.code == 0 || strings.Count(r.err, "\n") != 1 || strings.Contains(r.err, hsmPIN) {
			t.Errorf("%s: serve ended with %d: %s", c.name, r.code, r.err)
		}
		if !strings.Contains(strings.ReplaceAll(r.err, w.dir, "WORLD"), hint) || hint == "" && !strings.Contains(r.err, "make it") {
			t.Errorf("%s: doctor advises %q, and serve says only %s", c.name, p.Hint, r.err)
		}
	}
}

// A world that is well has no problems, and doctor leaves it as it was. A PIN that was wrong is not tried again, before
// somebody has logged in.
func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newHSMWorld(t)
	before := w.state()
	if problems, all := w.doctor(); len(problems) > 0 || !hasCheck(all, "start", "ok") || !hasCheck(all, "provider", "ok") {
		t.Errorf("found %+v", all)
	}
	if after := w.state(); after != before {
		t.Errorf("doctor has changed the files:\n%s\nwere\n%s", after, before)
	}
	text := w.mslkeep("doctor", "--agent-config", w.path("server/agent.toml")).ok(t)
	for line := range strings.Lines(text) {
		if state := strings.Fields(line)[0]; state != "ok" && state != "warning" {
			t.Errorf("a line is %q", line)
		}
	}
	w.serve()
	if _, all := w.doctor("--config", w.path("device-1/send.toml")); !hasCheck(all, "start", "ok") {
		t.Errorf("of a device: %+v", all)
	}
	w.write("server/pin", "wrong-"+hsmPIN)
	for _, check := range []string{"pin", "pin-untried", "pin-untried"} {
		if problems, _ := w.doctor(); len(problems) == 0 || problems[0].Check != check {
			t.Errorf("%+v, not %s", problems, check)
		}
	}
	w.write("server/pin", hsmPIN)
	if problems, _ := w.doctor(); len(problems) == 0 || problems[0].Check != "pin-untried" {
		t.Errorf("after a wrong PIN: %+v", problems)
	}
}

// state is the names, sizes and times of what the server has. SoftHSM's own files change with each log-in.
func (w *world) state() string {
	w.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(w.path("server"), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "tokens" {
			return filepath.SkipDir
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintf(&b, "%s %d %v %v\n", path, info.Size(), info.ModTime(), info.Sys().(*syscall.Stat_t).Ctim)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return b.String()
}

// What weakens a service is a warning, and no failure.
func TestDoctorWarns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("server/agent.toml", w.read("server/agent.toml")+"key-log = \"key.log\"\nallow = [\"RSA\"]\n")
	w.edit("server/serve.toml", "[serve]", "[serve]\nupstream = \"http://127.0.0.1:1/\"")
	for _, name := range []string{"server/agent.toml", "server/serve.toml"} {
		if err := os.Chmod(w.path(name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	problems, all := w.doctor()
	if len(problems) > 0 {
		t.Errorf("problems: %+v", problems)
	}
	for _, check := range []string{"config-mode", "agent-config-mode", "key-log", "legacy", "upstream", "hardening"} {
		if !hasCheck(all, check, "warning") {
			t.Errorf("no warning of %s in %+v", check, all)
		}
	}
	for _, args := range [][]string{{}, {"x"}, {"--json"}} {
		w.mslkeep(append([]string{"doctor"}, args...)...).oneLine(t, exitUsage)
	}
}

// With an agent that runs by itself, doctor asks that; and looks at its configuration too, if it is named.
func TestDoctorSocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	agent := w.daemon("server")
	if problems, all := w.doctor(); len(problems) > 0 || !hasCheck(all, "start", "ok") || !hasCheck(all, "agent-health", "ok") || hasCheck(all, "key-file", "ok") {
		t.Errorf("found %+v", all)
	}
	if problems, all := w.doctor("--agent-config", w.path("server/agent.toml")); len(problems) > 0 || !hasCheck(all, "key-file", "ok") {
		t.Errorf("found %+v", all)
	}
	agent.kill()
	if problems, _ := w.doctor(); len(problems) != 1 || problems[0].Check != "start" || problems[0].Hint == "" {
		t.Errorf("of an agent that has gone: %+v", problems)
	}
}
