// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	headerSize  = 10      // of a command and of a response: tag, size, code (TPM 2.0 part 1 §18.9)
	maxResponse = 4 << 10 // bytes; what chips have in practice, and what the kernel takes
	dialTime    = 2 * time.Second
)

var (
	errDevice   = errors.New("the device must be an absolute path, swtpm:unix:/PATH or swtpm:tcp:HOST:PORT")
	errNoAnswer = errors.New("the chip does not answer")
	errResponse = errors.New("what the chip answers is no TPM response")
)

// A device is what commands are sent to. One goroutine uses it. After an error it is of no use but to be closed.
type device interface {
	// exchange sends a command and waits for its response.
	exchange(command []byte, deadline time.Time) ([]byte, error)
	Close() error
}

// simulated reports whether a device is swtpm, of which nobody else takes care: a kernel starts a chip up.
func simulated(name string) bool { return strings.HasPrefix(name, "swtpm:") }

// openDevice opens /dev/tpmrm0 and the like, or connects to swtpm.
func openDevice(name string) (device, error) {
	if kind, address, ok := strings.Cut(strings.TrimPrefix(name, "swtpm:"), ":"); simulated(name) && ok {
		switch kind {
		case "unix", "tcp":
			conn, err := net.DialTimeout(kind, address, dialTime)
			if err != nil {
				return nil, err
			}
			return stream{conn}, nil
		}
	}
	if !filepath.IsAbs(name) {
		return nil, errDevice
	}
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return &character{fd}, nil
}

// checkHeader checks the size in a response's header against what is there.
func checkHeader(response []byte) error {
	if len(response) < headerSize || binary.BigEndian.Uint32(response[2:]) != uint32(len(response)) {
		return errResponse
	}
	return nil
}

// A stream is swtpm's server channel: commands and responses as they are, one after the other.
type stream struct{ net.Conn }

func (s stream) exchange(command []byte, deadline time.Time) ([]byte, error) {
	if err := s.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := s.Write(command); err != nil {
		return nil, err
	}
	header := make([]byte, headerSize, 512)
	if _, err := io.ReadFull(s, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerSize || size > maxResponse {
		return nil, errResponse
	}
	response := append(header, make([]byte, size-headerSize)...)
	if _, err := io.ReadFull(s, response[headerSize:]); err != nil {
		return nil, err
	}
	return response, nil
}

// A character is a character device of the kernel: a write is a command, and a read its whole response. It
// is not left to the runtime's poller, which takes a read of no bytes for the end of a file.
type character struct{ fd int }

func (c *character) exchange(command []byte, deadline time.Time) ([]byte, error) {
	n, err := retried(func() (int, error) { return unix.Write(c.fd, command) })
	if err != nil {
		return nil, fmt.Errorf("writing a command: %w", err)
	}
	if n != len(command) {
		return nil, fmt.Errorf("writing a command: %w", io.ErrShortWrite)
	}
	for {
		wait := time.Until(deadline)
		if wait <= 0 {
			return nil, errNoAnswer
		}
		// Not more than a second at once, so that a clock that is set does no harm.
		ready := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		n, err := retried(func() (int, error) { return unix.Poll(ready, int(min(wait, time.Second)/time.Millisecond)+1) })
		if err != nil {
			return nil, fmt.Errorf("waiting for a response: %w", err)
		}
		if n > 0 {
			break
		}
	}
	response := make([]byte, maxResponse)
	n, err = retried(func() (int, error) { return unix.Read(c.fd, response) })
	if err != nil {
		return nil, fmt.Errorf("reading a response: %w", err)
	}
	response = response[:n]
	return response, checkHeader(response)
}

func (c *character) Close() error { return unix.Close(c.fd) }

// retried calls f again while a signal interrupts it.
func retried(f func() (int, error)) (n int, err error) {
	for {
		if n, err = f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
