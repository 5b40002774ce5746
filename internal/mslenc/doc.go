// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package mslenc reads and writes MSL objects in their one encoding, JSON (§1), and base64.
//
// Signatures are computed over bytes that travel (§1.3), so reading keeps them: [Object.Encoding] gives
// the bytes of an object, and of each nested one, exactly as they came.
package mslenc
