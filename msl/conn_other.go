// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package msl

import "net"

// nothingToRead takes every connection for good.
func nothingToRead(net.Conn) bool { return true }
