// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

// doctorTime bounds all that doctor does.
const doctorTime = 5 * time.Minute

const configHint = "mslkeep-agent example explains every field"

// doctor looks for what would keep the agent from starting, make it fail later, or weaken it. It changes nothing.
func doctor(ctx context.Context, o *options, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	f := new(findings)
	if !o.json {
		f.out = out
	}
	cfg, err := loadConfig(o.config)
	hardening := plugin.Harden(err == nil && cfg.KeyLog != "") // before any secret is read
	if err != nil {
		f.problem(advice{"agent-config", configHint}, "%v", err)
		return f.end(out)
	}
	f.config(cfg)
	f.hardening(hardening)
	f.clock(cfg)
	keys := f.keyFile(cfg)
	if keys == nil {
		return f.end(out)
	}
	defer keys.Close()
	running := f.providers(ctx, cfg)
	defer running.close()
	all := running.with(keys)
	f.roles(ctx, cfg, running, all, o.needs)
	if f.problems() > 0 {
		return f.end(out)
	}
	groups, err := cfg.dhGroups()
	if err == nil {
		_, err = custody.New(ctx, cfg.custody(all, groups))
	}
	if err != nil {
		f.problem(roleAdvice(err, cfg), "%v", err)
	} else {
		f.ok("agent", "the agent can start")
	}
	return f.end(out)
}

// config tells what of a configuration that can be read is not as it should be.
func (f *findings) config(cfg *config) {
	info, err := os.Stat(cfg.path)
	if err != nil {
		f.problem(advice{"agent-config", ""}, "%v", err)
		return
	}
	others := os.FileMode(0o022)
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Gid == st.Uid {
		others = 0o002 // the group is the owner's alone
	}
	if info.Mode().Perm()&others != 0 {
		f.warn(advice{"agent-config-mode", "chmod go-w " + cfg.path}, "%s can be changed by other users, who could have the agent run what they like", cfg.path)
	} else {
		f.ok("agent-config", "%s", cfg.path)
	}
	if cfg.KeyLog != "" {
		f.warn(advice{"key-log", "remove key-log"}, "every key is written to %s in the clear", cfg.KeyLog)
	}
	if len(cfg.Allow) > 0 {
		f.warn(advice{"legacy", "remove from allow what no peer needs any more"}, "weak key exchanges are allowed: %s", strings.Join(cfg.Allow, ", "))
	}
}

func (f *findings) hardening(list []plugin.Finding) {
	good := true
	for _, x := range list {
		if !x.OK {
			good = false
			f.warn(advice{"hardening", ""}, "%s: %s", x.Name, x.Detail)
		}
	}
	if good {
		f.ok("hardening", "no core dumps, not readable by others, no new privileges, not swapped")
	}
}

// clock compares the clock with what files tell, since tokens expire by it.
func (f *findings) clock(cfg *config) {
	const tolerated = time.Minute
	a := advice{"clock", "set the clock, and have a time service keep it: tokens are issued and expire by it"}
	now := time.Now()
	for _, path := range []string{cfg.path, cfg.Keys} {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(now.Add(tolerated)) {
			f.problem(a, "the clock is behind: it says %s, and %s was changed at %s", now.UTC().Format(time.DateTime), path, info.ModTime().UTC().Format(time.DateTime))
			return
		}
	}
	var t unix.Timex
	if state, err := unix.Adjtimex(&t); err == nil && state == unix.TIME_ERROR {
		f.warn(a, "the clock is not synchronised, as the kernel knows it")
		return
	}
	f.ok("clock", "%s UTC", now.UTC().Format(time.DateTime))
}

// keyFile opens the file of keys. It returns nil if that cannot be done.
func (f *findings) keyFile(cfg *config) *software.Provider {
	if strings.HasPrefix(cfg.KeySource, "fd:") || strings.HasPrefix(cfg.PassphraseSource, "fd:") {
		f.warn(advice{"unlock-source", "try with another source"}, "what unlocks the keys comes by a descriptor, which doctor has not: neither keys nor providers were looked at")
		return nil
	}
	keys, err := software.Open(cfg.Keys, cfg.unlock(), software.Options{})
	if err != nil {
		f.problem(keyFileAdvice(err, cfg), "%v", err)
		return nil
	}
	f.ok("key-file", "%s opens", cfg.Keys)
	return keys
}

// providers starts them as the agent does. It returns those that run, and are well.
func (f *findings) providers(ctx context.Context, cfg *config) connected {
	running := make(connected)
	for i := range cfg.Providers {
		p := &cfg.Providers[i]
		c, err := p.connect(ctx)
		if err != nil {
			f.problem(providerAdvice(err, cfg), "provider %s: %v", p.Name, err)
			continue
		}
		running[p.Name] = c
		d, err := c.Provider().(providers.Describer).Describe(ctx)
		if err == nil {
			err = c.Provider().(providers.HealthChecker).Health(ctx)
		}
		if err != nil {
			f.problem(advice{"provider-health", "the agent would start, and its log say the same every 30 seconds"}, "provider %s: %v", p.Name, err)
			continue
		}
		f.ok("provider", "%s: %s %s started, and is well", p.Name, d.Name, d.Version)
		for _, fact := range d.Facts {
			f.ok("provider-device", "%s: %s", p.Name, fact)
		}
		for _, w := range d.Warnings {
			f.warn(advice{"provider-device", ""}, "%s: %s", p.Name, w)
		}
	}
	return running
}
