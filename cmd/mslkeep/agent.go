// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

// agentEnv are the variables that an agent of our own gets.
var agentEnv = []string{"PATH", "CREDENTIALS_DIRECTORY", "TERM", "GOMAXPROCS"}

// startAgent starts an agent of our own. It ends with this process. If it does not start, log gets nothing:
// the error tells what the agent said.
func startAgent(ctx context.Context, binary, sum string, args []string, log io.Writer) (*agent.Client, error) {
	if _, err := os.Stat(binary); err != nil {
		return nil, &exitError{exitAgent, fmt.Errorf("there is no key agent: %w", err), agentBinaryHint}
	}
	held := &heldLog{to: log}
	k, err := agent.Start(ctx, agent.Config{Path: binary, SHA256: sum, Args: args, Log: held, Terminal: isTerminal(os.Stdin),
		Env: agentEnv})
	if err == nil {
		held.release()
		return k, nil
	}
	hint := ""
	if errors.Is(err, agent.ErrHashMismatch) {
		hint = agentHashHint
	}
	return nil, &exitError{exitAgent, err, hint}
}

// A heldLog keeps what is written until it is released, and then passes it on.
type heldLog struct {
	mu       sync.Mutex
	to       io.Writer
	kept     []byte
	released bool
}

func (l *heldLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return l.to.Write(p)
	}
	l.kept = append(l.kept, p...)
	return len(p), nil
}

func (l *heldLog) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.to.Write(l.kept)
	l.kept, l.released = nil, true
}

const (
	agentHashHint   = "if you changed it on purpose, set sha256 in [agent] to the new hash, or build both with make build"
	agentBinaryHint = "name its binary in [agent]; only root or this user may be able to change it"
)

func dialAgent(ctx context.Context, address string) (*agent.Client, error) {
	k, err := agent.Dial(ctx, address)
	if err != nil {
		return nil, &exitError{exitAgent, err, "start it with: mslkeep-agent --config FILE --listen " + address}
	}
	return k, nil
}

// hintFor says what to do about an agent's failure.
func hintFor(err error) string {
	var failure msl.FailureError
	if !errors.As(err, &failure) {
		return ""
	}
	switch f, _ := failure.Failure(); f {
	case msl.NoSuchKey:
		return "mslkeep keys list shows the names"
	case msl.Malformed, msl.NotSupported:
		return "mslkeep keys --help lists types and formats"
	case msl.Denied:
		return "start the agent with --manage, or use --agent-config"
	case msl.Unavailable:
		return "the agent is busy, or was restarted: try again"
	}
	return ""
}
