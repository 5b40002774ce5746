// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
	"github.com/mslkeep/mslkeep/softhsm-test/vaulttest"
)

// write makes a file for its owner only.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// configOf is a configuration with root's token.
func configOf(t testing.TB, v *vaulttest.Server) Config {
	t.Helper()
	return Config{Address: v.Address, CA: v.CA, Auth: Auth{Method: "token", Token: "file:" + write(t, "token", v.Token+"\n")}, Create: true}
}

// open opens a provider until the test ends.
func open(t testing.TB, c Config) *Provider {
	t.Helper()
	p, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestConformance(t *testing.T) {
	v := vaulttest.Start(t, vaulttest.Options{})
	t.Run("Transit", func(t *testing.T) {
		providertest.Run(t, func(t *testing.T) providers.Provider { return open(t, configOf(t, v)).Provider() },
			providertest.Options{TooLarge: maxData + 1})
	})
	t.Run("Wrapped", func(t *testing.T) {
		root := open(t, configOf(t, v))
		if _, err := root.Generate(t.Context(), "root", providers.AES256); err != nil {
			t.Fatal(err)
		}
		symmetric := []providers.KeyType{providers.AES128, providers.AES256, providers.HMACSHA256}
		providertest.Run(t, func(t *testing.T) providers.Provider {
			c := configOf(t, v)
			c.Wrapped = &Wrapped{Folder: t.TempDir(), Key: "root"}
			return open(t, c).Provider()
		}, providertest.Options{Generates: symmetric, Imports: symmetric})
	})
}
