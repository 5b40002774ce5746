// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"strings"

	"golang.org/x/crypto/argon2"
)

// userConfig is one of [[serve.users]].
type userConfig struct {
	Email        string `toml:"email"`
	User         string `toml:"user"`          // the name that user ID tokens carry
	PasswordHash string `toml:"password-hash"` // from mslkeep password
}

// Parameters of new password hashes: 19 MiB, two passes, as OWASP recommends for many logins at once.
const hashMemory, hashTime, hashThreads = 19 << 10, 2, 1

// maxHashMemory bounds what the configuration may ask for, in KiB.
const maxHashMemory = 1 << 20

// A passwordHash is an Argon2id hash in the PHC string format.
type passwordHash struct {
	memory, time uint32
	threads      uint8
	salt, sum    []byte
}

func newPasswordHash(password string) passwordHash {
	h := passwordHash{memory: hashMemory, time: hashTime, threads: hashThreads, salt: make([]byte, 16)}
	rand.Read(h.salt)
	h.sum = h.compute(password)
	return h
}

func (h passwordHash) compute(password string) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, 32)
}

func (h passwordHash) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$%s$%s", h.memory, h.time, h.threads, b64.EncodeToString(h.salt), b64.EncodeToString(h.sum))
}

func parsePasswordHash(s string) (h passwordHash, err error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != "v=19" {
		return h, errors.New("not an Argon2id hash")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads); err != nil {
		return h, errors.New("bad parameters")
	}
	if h.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return h, errors.New("bad salt")
	}
	if h.sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(h.sum) != 32 {
		return h, errors.New("bad hash")
	}
	if h.memory > maxHashMemory || h.time == 0 || h.time > 100 || h.threads == 0 {
		return h, errors.New("parameters out of bounds")
	}
	return h, nil
}

// users checks e-mail addresses and passwords against the configuration.
type users struct {
	known map[string]userConfig
	hash  map[string]passwordHash
	dummy passwordHash  // is compared with where there is no user, so that both take the same time
	slots chan struct{} // bounds the memory of hashes that are computed at once
}

func newUsers(list []userConfig) (*users, error) {
	u := &users{known: make(map[string]userConfig), hash: make(map[string]passwordHash), dummy: newPasswordHash(""), slots: make(chan struct{}, runtime.NumCPU())}
	for _, user := range list {
		h, err := parsePasswordHash(user.PasswordHash)
		if err != nil {
			return nil, configError(fmt.Errorf("[[serve.users]] %q: password-hash: %w", user.Email, err), "make one with: mslkeep password")
		}
		if user.User == "" || user.Email == "" {
			return nil, configError(fmt.Errorf("[[serve.users]] %q: email and user are needed", user.Email), "")
		}
		u.known[user.Email], u.hash[user.Email] = user, h
	}
	return u, nil
}

// EmailPassword implements msl.UserAuthenticator.
func (u *users) EmailPassword(ctx context.Context, _, email, password string) (string, bool, error) {
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
	user, known := u.known[email]
	h := u.dummy
	if known {
		h = u.hash[email]
	}
	same := subtle.ConstantTimeCompare(h.compute(password), h.sum) == 1
	return user.User, known && same, nil
}

const passwordUsage = `Usage: mslkeep password

Reads a password from standard input, up to the end of the line, and prints its hash for the field
password-hash of [[serve.users]].

Example:
  mslkeep password < password.txt
`

func password(_ context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("password", flag.ContinueOnError)
	if err := parse(c, flags, passwordUsage, args, 0); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(c.in, 4096)).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return &exitError{exitUsage, errors.New("there is no password on standard input"), "mslkeep password < FILE"}
	}
	fmt.Fprintln(c.out, newPasswordHash(line))
	return nil
}
