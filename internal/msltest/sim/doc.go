// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package sim is a deterministic simulation of MSL networks, as a test: many clients and peers, with
// agents in this process, talk over a network that delays, cuts, loses, repeats, redirects and corrupts, while clocks
// jump, agents and processes lose their memory, and tokens are revoked. After each step invariants are checked.
//
// Everything that happens is drawn from one seed. One goroutine at a time goes on, from one point where the
// simulation can interfere to the next, and randomness of crypto/rand comes from the seed, too. So a seed that has
// failed fails again:
//
//	go test ./internal/msltest/sim -run TestSimulation -seed 7 -exchanges 10000
//	make simulate SEEDS=100
package sim
