// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
)

// maxRandom bounds what random prints, in bytes.
const maxRandom = 1024

// printRandom prints fresh random bytes in hexadecimal: a pre-shared key to be imported on both sides.
func printRandom(count string, out io.Writer) error {
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > maxRandom {
		return usageError("random takes a number of bytes up to %d", maxRandom)
	}
	b := make([]byte, n)
	rand.Read(b)
	_, err = fmt.Fprintln(out, hex.EncodeToString(b))
	clear(b)
	return err
}
