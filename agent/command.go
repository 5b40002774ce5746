// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"io"

	"github.com/mslkeep/mslkeep/plugin"
)

// Command runs one of the agent's own commands, such as those on its configuration, to its end. Of cfg it
// takes Path, SHA256, Args, Env, and Log for the standard error. It returns the exit code.
func Command(ctx context.Context, cfg Config, out io.Writer) (code int, err error) {
	return plugin.Run(ctx, plugin.Spec{Path: cfg.Path, SHA256: cfg.SHA256, Args: cfg.Args, Env: cfg.Env, Log: cfg.Log}, out)
}
