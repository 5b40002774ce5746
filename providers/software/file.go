// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mslkeep/mslkeep/internal/atomicfile"
	"github.com/mslkeep/mslkeep/internal/secretfile"
	"github.com/mslkeep/mslkeep/providers"
)

// lockWait is how long a writer waits for another one. A write takes milliseconds.
const lockWait = 5 * time.Second

// A stamp tells one version of the file from the next.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
}

// stampAt returns the stamp of the file at path, or the zero stamp if it cannot tell.
func stampAt(path string) stamp {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return stamp{}
	}
	return stampOf(&st)
}

// readFile returns the bytes and stamp of the key file.
func readFile(path string) ([]byte, stamp, error) {
	f, err := secretfile.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, stamp{}, failure(providers.Device, "opening the key file "+path, os.ErrNotExist)
	}
	if errors.Is(err, secretfile.ErrAccess) {
		return nil, stamp{}, failure(providers.Denied, "opening the key file", err)
	}
	if err != nil {
		return nil, stamp{}, failure(providers.Device, "opening the key file "+path, err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, stamp{}, failure(providers.Device, "reading the key file "+path, err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, stamp{}, failure(providers.Device, "reading the key file "+path, err)
	}
	if len(b) > maxFile {
		return nil, stamp{}, failure(providers.Corrupt, "reading the key file "+path, errNotKeyFile)
	}
	return b, stampOf(&st), nil
}

// writeFile replaces the file at path. The caller holds the lock.
func writeFile(path string, data []byte) (stamp, error) {
	var st unix.Stat_t
	err := atomicfile.ReplaceLocked(path, data, 0o600)
	if err == nil {
		err = unix.Lstat(path, &st) // after the rename, which changes ctime
	}
	if err != nil {
		return stamp{}, failure(providers.Device, "writing the key file "+path, err)
	}
	return stampOf(&st), nil
}

// lock keeps other writers out, in this process and in others. The lock file stays there, since removing
// it would let two writers hold different ones.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	op := "locking the key file " + path
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, failure(providers.Device, op, err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, failure(providers.Device, op, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, failure(providers.Transient, op, errors.New("another process is writing it"))
		case <-time.After(wait):
		}
	}
}
