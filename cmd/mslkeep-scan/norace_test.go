// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package main

// raceEnabled tells whether the race detector is on. It maps gigabytes, which then get searched slowly.
const raceEnabled = false
