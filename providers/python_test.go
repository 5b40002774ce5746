// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/providertest"
)

const python = "/usr/bin/python3"

// TestPython runs the suite for a provider that is not written in Go.
func TestPython(t *testing.T) {
	if out, err := exec.Command(python, "-Ic", "import grpc, google.protobuf, cryptography").CombinedOutput(); err != nil {
		t.Skipf("needs python3-grpcio, python3-protobuf and python3-cryptography: %s", out)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "mslkeep-provider-python")
	build := exec.Command(python, "-m", "zipapp", "../examples/python-provider", "-p", python+" -IB", "-o", path)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sum, err := plugin.HashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := json.Marshal(map[string]string{"file": filepath.Join(dir, "keys.json")})
	if err != nil {
		t.Fatal(err)
	}
	cfg := providers.Config{Path: path, SHA256: sum, Settings: settings, Log: t.Output(), Timeout: 20 * time.Second}
	c, err := providers.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Provider().(providers.Describer).Describe(t.Context())
	if err != nil || d.Name != "python-example" || len(d.Warnings) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	if _, ok := c.Provider().(providers.Rotator); ok {
		t.Error("the provider rotates, which it does not advertise")
	}
	providertest.Run(t, func(*testing.T) providers.Provider { return c.Provider() },
		providertest.Options{Generates: d.Generates, Imports: d.Imports, Size: 4 << 20, TooLarge: providers.MaxData + 1})

	k := macKey(t, c, "kept")
	want, err := k.MAC(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sendSignal(t, c, syscall.SIGKILL)
	eventually(t, k)
	if got, err := k.MAC(t.Context(), nil); err != nil || string(got) != string(want) {
		t.Errorf("after a restart: %x, %v", got, err)
	}
	cfg.Settings = []byte(`{"pin":"1"}`)
	if _, err := providers.Connect(t.Context(), cfg); err == nil {
		t.Error("unknown settings were taken")
	} else if e, ok := errors.AsType[*plugin.StartError](err); !ok || e.Output == "" || providers.CauseOf(err) != providers.CauseSettings {
		t.Errorf("unknown settings: %v", err)
	}
}
