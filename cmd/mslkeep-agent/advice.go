// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"os"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
)

// An advice is what an error means to an operator: which check of doctor finds it, by a name that stays, and what
// to do. It is the same when the agent does not start and when doctor is asked.
type advice struct{ check, hint string }

// causeAdvice is about what a provider's process says by its exit code.
var causeAdvice = map[providers.StartCause]advice{
	providers.CauseSettings:      {"provider-settings", "correct [providers.settings]; the provider's documentation lists them"},
	providers.CauseDriver:        {"module", "check the path in [providers.settings], who can change that file, what it needs (ldd), and the variables in env that it reads"},
	providers.CauseDriverChanged: {"module-hash", "if the library was changed on purpose, set its sha256 in [providers.settings] to what sha256sum prints"},
	providers.CauseDevice:        {"token", "check that the device is there and the agent's user may open it, and which token the settings name; env must have the variables that its library reads"},
	providers.CauseSecretSource:  {"pin-source", "the settings must name, as the source of the PIN or password, a file that only the agent's user, or root, can read"},
	providers.CauseSecretRefused: {"pin", "correct the PIN or password in its source; then log in once by hand, since none is tried again while the device remembers the failure"},
	providers.CauseSecretUntried: {"pin-untried", "log in once by hand with the right PIN, or have the security officer set a new one; then start again"},
}

// providerAdvice is about an error of connecting to a provider.
func providerAdvice(err error, cfg *config) advice {
	if a, ok := causeAdvice[providers.CauseOf(err)]; ok {
		return a
	}
	e, ok := errors.AsType[*plugin.StartError](err)
	switch {
	case ok && e.Step == plugin.StepHash:
		return advice{"provider-hash", "if the binary was changed on purpose, set sha256 in " + cfg.path + " to what mslkeep-agent provider hash prints"}
	case ok && e.Step == plugin.StepPermissions:
		return advice{"provider-mode", "let only root or the agent's user own and change the binary and the folders above it"}
	case ok && e.Step <= plugin.StepRead:
		return advice{"provider-binary", "check binary in " + cfg.path}
	}
	return advice{"provider-start", "mslkeep provider check tells more"}
}

// keyFileAdvice is about an error of opening the file of keys.
func keyFileAdvice(err error, cfg *config) advice {
	absent := errors.Is(err, os.ErrNotExist)
	switch code := providers.CodeOf(err); {
	case absent && missing(cfg.Keys):
		return advice{"key-file", "make it with: mslkeep-agent init --config " + cfg.path}
	case code == providers.Corrupt:
		return advice{"key-file-damaged", "put the file back from a backup; what unlocks it stays the same"}
	case code == providers.Denied, errors.Is(err, fs.ErrPermission):
		return advice{"key-file-mode", "the agent's user must own the file and what unlocks it, and nobody else may read them (mode 0600)"}
	case code == providers.Locked && absent:
		return advice{"unlock-source", "put back what key-source or passphrase-source in " + cfg.path + " names: without it no key can be read"}
	case code == providers.Locked:
		return advice{"unlock-key", "key-source or passphrase-source in " + cfg.path + " must name what this very file was made with"}
	}
	return advice{"key-file", "check keys in " + cfg.path}
}

// roleAdvice is about an error of a key that a role names.
func roleAdvice(err error, cfg *config) advice {
	is := func(p providers.Code, w wire.Code) bool { return errors.Is(err, p) || errors.Is(err, w) }
	switch {
	case is(providers.NoSuchKey, wire.NoSuchKey):
		return advice{"key", "make it with: mslkeep-agent init --config " + cfg.path}
	case is(providers.NotSupported, wire.NotSupported):
		return advice{"key-mechanism", "make another key for this role: init makes one that can do what it must; see also what the device can, and without in its settings"}
	case is(providers.Denied, wire.Denied):
		return advice{"key-denied", "make a key that is sensitive and cannot be taken out of the device"}
	case is(providers.Transient, wire.Transient), is(providers.Device, wire.Device), errors.Is(err, providers.Locked):
		return advice{"key-use", "the device failed: see its own log, and mslkeep provider check"}
	}
	return advice{"agent-config", configHint}
}
