// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import "github.com/mslkeep/mslkeep/plugin"

// ErrHashMismatch means that the agent's binary is not the one that is pinned. It was not run.
var ErrHashMismatch = plugin.ErrHashMismatch
