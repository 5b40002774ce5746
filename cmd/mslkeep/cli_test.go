// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"flag"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// TestRefusals: what can be wrong is said in one line, with a hint and an exit code, and without a stack
// trace or a secret.
func TestRefusals(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		what string
		make func(w *world) // makes it wrong
		args string         // DIR stands for the world's folder
		code int
		want []string // parts of the line
	}{
		{"another unlock key", func(w *world) { w.write("server/unlock", strings.Repeat("ab", 32)) },
			"serve --config DIR/server/serve.toml", exitAgent, []string{"key-source"}},
		{"a wrong passphrase", func(w *world) {
			w.write("phrase", "right\n")
			w.write("device-3/agent.toml", "keys = \"other\"\npassphrase-source = \"file:../phrase\"\n")
			execute(w.t.Context(), nil, "mslkeep-agent", "init", "--config", w.path("device-3/agent.toml")).ok(w.t)
			w.write("phrase", "my-wrong-phrase\n")
		}, "keys list --agent-config DIR/device-3/agent.toml", exitAgent, []string{"passphrase-source"}},
		{"a damaged key file", func(w *world) {
			keys := []byte(w.read("server/keys"))
			keys[len(keys)/2] ^= 1
			w.write("server/keys", string(keys))
		}, "serve --config DIR/server/serve.toml", exitAgent, []string{"server/keys", "damaged"}},
		{"a key file cut short", func(w *world) { w.write("server/keys", w.read("server/keys")[:100]) },
			"serve --config DIR/server/serve.toml", exitAgent, []string{"server/keys"}},
		{"no key file", func(w *world) { os.Remove(w.path("server/keys")) },
			"serve --config DIR/server/serve.toml", exitAgent, []string{"mslkeep-agent init"}},
		{"a key file that others can read", func(w *world) { os.Chmod(w.path("server/keys"), 0o644) },
			"serve --config DIR/server/serve.toml", exitAgent, []string{"chmod 600"}},
		{"an unlock key that others can read", func(w *world) { os.Chmod(w.path("server/unlock"), 0o640) },
			"serve --config DIR/server/serve.toml", exitAgent, []string{"unlock"}},
		{"a port that is taken", nil, "serve --config DIR/server/serve.toml --listen " + taken.Addr().String(), exitFailure, []string{"taken", "--listen"}},
		{"a port that is none", nil, "serve --config DIR/server/serve.toml --listen nowhere", exitFailure, []string{"nowhere"}},
		{"another agent", func(w *world) {
			w.edit("server/serve.toml", "[agent]\n", "[agent]\nbinary = \"changed\"\n")
			agent, _ := os.ReadFile(filepath.Join(binaries, "mslkeep-agent"))
			os.WriteFile(w.path("server/changed"), append(agent, 0), 0o755)
		}, "serve --config DIR/server/serve.toml", exitAgent, []string{"server/changed", "hash", "sha256"}},
		{"no agent", func(w *world) { w.edit("server/serve.toml", "[agent]\n", "[agent]\nbinary = \"missing\"\n") },
			"serve --config DIR/server/serve.toml", exitAgent, []string{"server/missing", "binary"}},
		{"no agent's configuration", func(w *world) { os.Remove(w.path("server/agent.toml")) },
			"serve --config DIR/server/serve.toml", exitAgent, []string{"server/agent.toml"}},
		{"an unknown field of the agent's", func(w *world) { w.write("server/agent.toml", "colour = 1\n"+w.read("server/agent.toml")) },
			"serve --config DIR/server/serve.toml", exitAgent, []string{"colour"}},
		{"an unknown field", func(w *world) { w.edit("server/serve.toml", "listen", "listne") },
			"serve --config DIR/server/serve.toml", exitConfig, []string{"serve.listne"}},
		{"bad TOML", func(w *world) { w.write("server/serve.toml", "[agent") },
			"serve --config DIR/server/serve.toml", exitConfig, []string{"serve.toml"}},
		{"an unknown scheme", func(w *world) { w.edit("server/serve.toml", "scheme = \"RSA\"", "scheme = \"MAGIC\"") },
			"serve --config DIR/server/serve.toml", exitConfig, []string{"MAGIC", "PSK, PSK_PROFILE, X509"}},
		{"a key of our own that is not there", func(w *world) {
			w.edit("server/serve.toml", "key-id = \"server\"", "key-id = \"other\"")
		}, "serve --config DIR/server/serve.toml", exitConfig, []string{"rsa/other", "mslkeep keys generate"}},
		{"token keys that are not there", func(w *world) { w.edit("server/agent.toml", "\"token-keys\"", "\"others\"") },
			"serve --config DIR/server/serve.toml", exitAgent, []string{"mslkeep-agent init"}},
		{"no configuration", nil, "serve --config DIR/none.toml", exitConfig, []string{"none.toml"}},
		{"no --config", nil, "serve", exitUsage, []string{"--config"}},
		{"an unknown flag", nil, "serve --colour", exitUsage, []string{"colour", "--help"}},
		{"an argument too many", nil, "serve --config DIR/server/serve.toml more", exitUsage, nil},
		{"an unknown command", nil, "fly", exitUsage, []string{"fly"}},
		{"a bad hash of a password", func(w *world) { w.edit("server/serve.toml", "$argon2id$", "$bcrypt$") },
			"serve --config DIR/server/serve.toml", exitConfig, []string{"ada@example.com", "mslkeep password"}},
		{"an unknown key exchange", nil, "send --config DIR/device-1/send.toml --url http://127.0.0.1:1/ --key-exchange X/Y hello", exitConfig, []string{"X/Y"}},
		{"a key exchange without mechanism", nil, "send --config DIR/device-1/send.toml --url http://127.0.0.1:1/ --key-exchange PSK hello", exitConfig, []string{"SCHEME/MECHANISM"}},
		{"nobody at the URL", nil, "send --config DIR/device-1/send.toml --url http://127.0.0.1:1/ hello", exitFailure, []string{"127.0.0.1:1"}},
		{"no URL", nil, "send --config DIR/device-1/send.toml hello", exitConfig, []string{"--url"}},
		{"a bad protection", nil, "send --config DIR/device-1/send.toml --url http://127.0.0.1:1/ --protection much hello", exitUsage, []string{"much"}},
		{"a bad compression", nil, "send --config DIR/device-1/send.toml --url http://127.0.0.1:1/ --compression ZIP hello", exitUsage, []string{"ZIP"}},
		{"no file", nil, "send --config DIR/device-1/send.toml --url http://127.0.0.1:1/ --file DIR/none", exitFailure, []string{"none"}},
		{"a count of zero", nil, "send --config DIR/device-1/send.toml --url http://127.0.0.1:1/ --count 0 hello", exitUsage, []string{"--count"}},
		{"no message", nil, "inspect DIR/server/serve.toml", exitFailure, []string{"not an MSL message"}},
		{"no operation", nil, "keys fly --agent-config DIR/server/agent.toml", exitUsage, []string{"fly"}},
		{"no name", nil, "keys generate --agent-config DIR/server/agent.toml", exitUsage, []string{"name"}},
		{"an unknown type", nil, "keys generate --agent-config DIR/server/agent.toml --type rot13 x", exitFailure, []string{"types"}},
		{"an unknown key", nil, "keys public --agent-config DIR/server/agent.toml rsa/none", exitFailure, []string{"keys list"}},
		{"no socket", func(w *world) {
			w.edit("server/serve.toml", "config = \"agent.toml\"", "socket = \"unix:/nonexistent/agent\"")
		}, "serve --config DIR/server/serve.toml", exitAgent, []string{"/nonexistent/agent", "--listen"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			if c.make != nil {
				c.make(w)
			}
			r := w.mslkeep(strings.Fields(strings.ReplaceAll(c.args, "DIR", w.dir))...)
			r.oneLine(t, c.code, c.want...)
			noSecret(t, w, r.err)
		})
	}
}

// noSecret checks that no file that holds a secret is quoted.
func noSecret(t *testing.T, w *world, said string) {
	t.Helper()
	for _, s := range []string{"goroutine", ".go:", worldPassword, "my-wrong-phrase", strings.Repeat("ab", 8), strings.TrimSpace(w.read("server/unlock"))} {
		if s != "" && strings.Contains(said, s) {
			t.Errorf("%q is in %q", s, said)
		}
	}
}

// TestPeerRefuses: what the server does not accept.
func TestPeerRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what, device string
		make         func(w *world)
		want         string
	}{
		{"a pre-shared key that differs", "device-1", func(w *world) {
			w.write("device-1/keys", w.read("device-3/keys"))
			w.write("device-1/unlock", w.read("device-3/unlock"))
			w.write("psk", strings.Repeat("cd", 48))
			w.mslkeep("keys", "import", "--agent-config", w.path("device-1/agent.toml"), "--file", w.path("psk"), "psk/device-1").ok(w.t)
		}, "[entity]"},
		{"an identity that the server does not know", "device-1", func(w *world) {
			w.write("psk", strings.Repeat("cd", 48))
			w.mslkeep("keys", "import", "--agent-config", w.path("device-1/agent.toml"), "--file", w.path("psk"), "psk/device-9").ok(w.t)
			w.edit("device-1/send.toml", "identity = \"device-1\"", "identity = \"device-9\"")
		}, "[entity]"},
		{"an RSA key that differs", "device-2", func(w *world) {
			w.mslkeep("keys", "rotate", "--agent-config", w.path("device-2/agent.toml"), "rsa/device-2").ok(w.t)
		}, "[entity]"},
		{"an RSA key for somebody else", "device-2", func(w *world) {
			w.edit("device-2/send.toml", "identity = \"device-2\"", "identity = \"device-1\"")
		}, "[entity]"},
		{"an entity that does not authenticate", "device-3", func(w *world) {
			w.edit("server/serve.toml", "[\"PSK\", \"RSA\", \"NONE\"]", "[\"PSK\", \"RSA\"]")
		}, ""},
		{"a revoked entity", "device-1", func(w *world) { w.edit("server/serve.toml", "\"stolen\"", "\"device-1\"") }, ""},
		{"no key exchange in common", "device-2", func(w *world) {
			w.edit("device-2/send.toml", "[msl]\n", "[msl]\nkey-exchanges = [\"ASYMMETRIC_WRAPPED/JWK_RSA\"]\n")
			w.edit("server/serve.toml", "[msl]\n", "[msl]\nkey-exchanges = [\"SYMMETRIC_WRAPPED/PSK\"]\n")
		}, "key-exchange"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			c.make(w)
			s := w.serve()
			r := w.send(c.device, s, "hello")
			r.oneLine(t, exitRefused, c.want, "; ")
			noSecret(t, w, r.err)
			// The same for more data than fits anywhere: the reason is told all the same.
			w.send(c.device, s, "--size", "10000000", "--compression", "NONE").oneLine(t, exitRefused, c.want, "; ")
		})
	}
	// A server that has another key than the client expects.
	w := newWorld(t)
	w.mslkeep("keys", "rotate", "--agent-config", w.path("server/agent.toml"), "rsa/server").ok(t)
	s := w.serve()
	w.send("device-2", s, "hello").oneLine(t, exitFailure)
}

// TestHelp: every command explains itself, with an example and all its flags.
func TestHelp(t *testing.T) {
	t.Parallel()
	for name := range commands {
		for _, h := range []string{"--help", "-h"} {
			r := execute(t.Context(), nil, "mslkeep", name, h)
			if r.code != 0 || r.err != "" || !strings.HasPrefix(r.out, "Usage: mslkeep "+name) {
				t.Errorf("%s %s: %+v", name, h, r)
			}
			if name != "version" && !regexp.MustCompile(`\nExamples?:\n  (\S.* \| )?mslkeep `+name).MatchString(r.out) {
				t.Errorf("%s %s has no example: %s", name, h, r.out)
			}
		}
	}
	out := execute(t.Context(), nil, "mslkeep", "send", "--help").ok(t)
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	new(sendFlags).define(flags)
	flags.VisitAll(func(f *flag.Flag) {
		if !strings.Contains(out, "  -"+f.Name+" ") && !strings.Contains(out, "  -"+f.Name+"\n") || f.Usage == "" {
			t.Errorf("send --help does not explain --%s", f.Name)
		}
	})
	out = execute(t.Context(), nil, "mslkeep", "--help").ok(t)
	for name := range commands {
		if !strings.Contains(out, "\n  "+name+" ") {
			t.Errorf("--help does not list %s", name)
		}
	}
	for _, args := range [][]string{{"--help"}, {"-h"}, {"help"}, {"--version"}, {"version"}} {
		execute(t.Context(), nil, "mslkeep", args...).ok(t)
	}
	for _, binary := range []string{"mslkeep-agent", "mslkeep-scan"} {
		if out := execute(t.Context(), nil, binary, "--help").ok(t); !strings.Contains(out, "\nExample:\n  "+binary+" ") {
			t.Errorf("%s --help has no example", binary)
		}
	}
	if r := execute(t.Context(), nil, "mslkeep"); r.code != exitUsage || r.out != "" || !strings.HasPrefix(r.err, "mslkeep speaks") {
		t.Errorf("without a command: %+v", r)
	}
}

// TestExamples keeps the examples true: they parse, also with everything that they comment out, and
// document every field that their command reads.
func TestExamples(t *testing.T) {
	t.Parallel()
	for command, other := range map[string]string{"serve": "send", "send": "serve"} {
		text := execute(t.Context(), nil, "mslkeep", command, "--example").ok(t)
		full := regexp.MustCompile(`(?m)^# (\[|[a-z0-9-]+ = )`).ReplaceAllString(text, "$1")
		for _, text := range []string{text, full} {
			path := filepath.Join(t.TempDir(), "example.toml")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := loadConfig(path); err != nil {
				t.Errorf("%s: %v", command, err)
			}
		}
		var shown config
		meta, err := toml.Decode(full, &shown)
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range fields(reflect.TypeFor[config](), nil) {
			if !meta.IsDefined(field...) && field[0] != other && !serverOnly[command][strings.Join(field, ".")] {
				t.Errorf("%s --example does not document %s", command, strings.Join(field, "."))
			}
		}
	}
}

// serverOnly are the fields that mean nothing to send.
var serverOnly = map[string]map[string]bool{"send": {
	"entities.database": true, "peers.revoked": true, "peers.public-key-directory": true, "msl.master-token-renewal": true, "msl.master-token-lifetime": true,
	"msl.user-id-token-renewal": true, "msl.user-id-token-lifetime": true,
}}

// fields returns the TOML names of all fields of a struct, but not of what is in arrays of tables, which
// IsDefined does not know.
func fields(t reflect.Type, section []string) (names [][]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("toml")
		if name == "" {
			continue
		}
		path := append(append([]string{}, section...), name)
		if f.Type.Kind() == reflect.Struct {
			names = append(names, fields(f.Type, path)...)
		} else {
			names = append(names, path)
		}
	}
	return names
}

// TestJSON: standard output is JSON and nothing else.
func TestJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	decoded[report](t, w.send("device-1", s, "--json", "hello").ok(t))
	decoded[loadResult](t, w.send("device-1", s, "--json", "--count", "3", "hello").ok(t))
	if list := decoded[[]map[string]any](t, w.mslkeep("keys", "list", "--json", "--agent-config", w.path("device-2/agent.toml")).ok(t)); len(list) < 2 {
		t.Errorf("%v", list)
	}
	if list := w.mslkeep("keys", "list", "--json", "--agent-config", w.path("device-2/agent.toml"), "none").ok(t); strings.TrimSpace(list) != "[]" {
		t.Errorf("%q", list)
	}
	message := w.recorded("device-1", s)
	r := execute(t.Context(), bytes.NewReader(message), "mslkeep", "inspect", "--json")
	if m := decoded[map[string]any](t, r.ok(t)); len(m) == 0 {
		t.Error(r.out)
	}
	r = execute(t.Context(), bytes.NewReader(message), "mslkeep", "inspect")
	if !strings.Contains(r.ok(t), "device-1") {
		t.Error(r.out)
	}
}
