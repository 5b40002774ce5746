// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msltest

// Deviates reports whether docs/msl.md lists a case as deviating.
func Deviates(listed map[string]string, id string) bool {
	kind, _ := find(listed, id)
	return kind == "deviating"
}

var ListedDeviations = listedDeviations
