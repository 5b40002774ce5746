// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package deps holds the import policy of this repository, as a test.
//
// This is policy, not a description. If a change breaks it, the change is wrong: do not edit the
// policy to make a test pass. It is what lets a reader believe, without reading the rest, that the
// process which parses messages from the network cannot hold a key.
package deps

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/mslkeep/mslkeep/"

// imports says which of our packages each of ours may import, tests apart. A package that is not here
// fails the test.
var imports = map[string][]string{
	"internal/mslenc":     {},
	"internal/lzw":        {},
	"internal/wire":       {},
	"internal/secret":     {},
	"internal/secretfile": {"internal/secret"},
	"internal/aeskw":      {},
	"internal/aeskey":     {"internal/aeskw", "providers"},
	"internal/memscan":    {},
	"internal/atomicfile": {},
	"internal/deps":       {},
	"plugin":              {},

	"msl":           {"internal/mslenc", "internal/lzw", "internal/atomicfile"},
	"msl/websocket": {"msl"}, // apart, so that programs without WebSockets have none of github.com/coder/websocket
	"agent":         {"msl", "internal/wire", "plugin"},

	"internal/jose":         {"internal/secret", "internal/mslenc", "internal/aeskw"},
	"internal/custody":      {"internal/wire", "internal/mslenc", "internal/lzw", "internal/jose", "internal/secret", "internal/aeskw", "providers"},
	"providers":             {"internal/secret", "plugin", "providers/internal/pb"},
	"providers/internal/pb": {},
	"providers/software":    {"providers", "internal/atomicfile", "internal/secret", "internal/secretfile", "internal/aeskey"},

	"pkcs11": {"providers", "internal/secret", "internal/secretfile"},
	"vault":  {"providers", "internal/atomicfile", "internal/secret", "internal/secretfile", "internal/aeskey"},
	"tpm":    {"providers", "internal/atomicfile", "internal/secret", "internal/secretfile", "internal/aeskey", "internal/aeskw"},

	"tpm/enrol": {"internal/atomicfile"}, // holds no key on either side: what needs a TPM is the caller's

	"entities": {}, // holds no secret: the protocol process may have it, with SQLite (in Go, no C) and PostgreSQL's driver

	"cmd/mslkeep":       {"msl", "msl/websocket", "agent", "entities"},
	"cmd/mslkeep-agent": {"internal/custody", "plugin", "providers/software", "internal/wire", "internal/secret", "providers"},
	"cmd/mslkeep-scan":  {"internal/memscan"},

	"cmd/mslkeep-provider-pkcs11": {"pkcs11", "plugin", "providers"},
	"cmd/mslkeep-provider-vault":  {"vault", "plugin", "providers"},
	"cmd/mslkeep-provider-tpm":    {"tpm", "plugin", "providers"},
	"cmd/mslkeep-enrol":           {"tpm", "tpm/enrol", "plugin", "providers"},

	// Tests only: these may import anything, and nothing but tests may import them.
	"internal/msltest":          nil,
	"internal/msltest/inproc":   nil,
	"internal/msltest/sim":      nil,
	"internal/msltest/postgres": nil,
	"providers/providertest":    nil,
	"softhsm-test":              nil,
	"softhsm-test/vaulttest":    nil,
}

// never says what may not be reached, even indirectly, from whom, and why.
var never = []struct {
	from   []string
	to     []string
	reason string
}{
	{
		from: []string{"msl", "msl/websocket", "agent", "cmd/mslkeep"},
		to: []string{
			module + "internal/custody", module + "internal/jose", module + "internal/secret", module + "internal/secretfile", module + "internal/aeskw", module + "internal/aeskey",
			module + "providers", module + "providers/internal/pb", module + "providers/software", module + "pkcs11", module + "tpm", module + "tpm/enrol", module + "vault", module + "internal/memscan",
			"filippo.io/bigmod", // Diffie-Hellman's secret exponents
			"github.com/miekg/pkcs11", "github.com/google/go-tpm/tpm2", "github.com/hashicorp/vault/api",
		},
		reason: "the protocol process never holds a key",
	},
	{
		from:   []string{"internal/custody", "providers", "providers/software", "cmd/mslkeep-agent"},
		to:     []string{module + "pkcs11", "github.com/miekg/pkcs11"},
		reason: "the agent loads no C code",
	},
	{
		from:   []string{"internal/custody", "providers", "providers/software", "cmd/mslkeep-agent"},
		to:     []string{module + "tpm", module + "tpm/enrol", module + "vault", "github.com/google/go-tpm/tpm2", "github.com/hashicorp/vault/api"},
		reason: "the agent knows of no device; its providers do",
	},
	{
		from:   []string{"pkcs11", "tpm", "tpm/enrol", "vault"},
		to:     []string{module + "msl", module + "internal/mslenc", module + "internal/wire", module + "internal/custody"},
		reason: "a provider knows nothing of MSL",
	},
	{
		from:   []string{"internal/custody", "providers", "providers/software", "internal/secret", "internal/jose"},
		to:     []string{module + "msl", module + "agent", module + "cmd/mslkeep"},
		reason: "the agent parses no whole message",
	},
}

// directly says what may not be imported directly.
var directly = []struct {
	from   []string
	to     string
	reason string
}{
	{[]string{"internal/custody", "cmd/mslkeep-agent", "providers", "providers/software"}, "net/http", "the agent opens no network connection"},
	{[]string{"pkcs11", "cmd/mslkeep-provider-pkcs11", "tpm", "cmd/mslkeep-provider-tpm"}, "net/http", "only the provider for Vault opens network connections"},
	{[]string{"[^p]*", "plugin", "providers", "*/*", "*/*/*"}, "github.com/miekg/pkcs11", "pkcs11 does that"},
	{[]string{"msl", "agent", "cmd/mslkeep"}, "github.com/coder/websocket", "msl/websocket does that"},
	{[]string{"[^e]*", "*/*", "*/*/*"}, "modernc.org/sqlite", "entities does that"},
	{[]string{"[^e]*", "*/*", "*/*/*"}, "github.com/jackc/pgx/v5", "entities does that"},
	{[]string{"[^e]*", "*/*", "*/*/*"}, "github.com/jackc/pgx/v5/stdlib", "entities does that"},
	{[]string{"internal/custody", "cmd/mslkeep-agent", "providers", "providers/software"}, "database/sql", "records are the protocol process's business"},
	{[]string{"*"}, "C", "C code is loaded only by the PKCS#11 provider"},
}

// openFolders opens all folders of the repository, because go test repeats an old result only if nothing
// that a test has opened is new. Otherwise it would not know that another package has changed.
func openFolders(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

type listed struct {
	ImportPath string
	Name       string
	Imports    []string
	Deps       []string
	DepOnly    bool
}

func list(t *testing.T) map[string]listed {
	t.Helper()
	openFolders(t)
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Name,Imports,Deps,DepOnly", module+"...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	packages := make(map[string]listed)
	for d := json.NewDecoder(out); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go list: %v", err)
	}
	return packages
}

func TestImports(t *testing.T) {
	packages := list(t)
	for p, allowed := range imports {
		if _, ok := packages[module+p]; !ok {
			t.Errorf("the policy names package %s, which has gone", p)
		}
		for _, a := range allowed {
			if _, ok := packages[module+a]; !ok {
				t.Errorf("the policy lets %s import %s, which has gone", p, a)
			}
		}
	}
	for _, p := range packages {
		name, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue
		}
		allowed, known := imports[name]
		if !known {
			t.Errorf("package %s is not in the policy", name)
		}
		for _, i := range p.Imports {
			if dep, ok := strings.CutPrefix(i, module); ok && allowed != nil && !slices.Contains(allowed, dep) {
				t.Errorf("%s imports %s, which the policy does not allow", name, dep)
			}
			if strings.HasPrefix(i, module+"internal/msltest") && allowed != nil {
				t.Errorf("%s imports %s, which is for tests", name, i)
			}
		}
	}
}

func TestNever(t *testing.T) {
	packages := list(t)
	for _, rule := range never {
		for _, from := range rule.from {
			for _, to := range rule.to {
				if strings.HasPrefix(to, module) && packages[to].ImportPath == "" {
					t.Errorf("the policy forbids %s, which has gone", to)
				}
				if slices.Contains(packages[module+from].Deps, to) {
					t.Errorf("%s reaches %s, but %s", from, to, rule.reason)
				}
			}
		}
	}
	for _, rule := range directly {
		for _, p := range packages {
			name, ours := strings.CutPrefix(p.ImportPath, module)
			if !ours || name == "pkcs11" && rule.to == "C" {
				continue
			}
			if slices.ContainsFunc(rule.from, func(f string) bool { ok, _ := path.Match(f, name); return ok || f == "*" }) && slices.Contains(p.Imports, rule.to) {
				t.Errorf("%s imports %s, but %s", name, rule.to, rule.reason)
			}
		}
	}
}
