// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package jsonbench compares what could have read and written MSL's JSON with package mslenc, which
// does. It is a module of its own, so that the libraries are not among what mslkeep depends on. Run:
//
//	go test -bench .
//
// README.md has the results.
package jsonbench
