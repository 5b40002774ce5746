// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// A chip is swtpm, behind a bus that counts the commands that cross it, and can do something before or after one.
type chip struct {
	t      testing.TB
	dir    string
	bus    net.Listener
	served sync.WaitGroup

	switching sync.Mutex
	power     *exec.Cmd // nil: it is off

	mu     sync.Mutex
	record []byte // of what crosses the bus, if it is not nil
	counts map[tpm2.TPMCC]int
	before func(tpm2.TPMCC)
}

// newChip powers a new chip on, until the test ends.
func newChip(t testing.TB) *chip {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed (apt-get install swtpm)")
	}
	dir, err := os.MkdirTemp("", "tpm") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	c := &chip{t: t, dir: dir, counts: make(map[tpm2.TPMCC]int)}
	if c.bus, err = net.Listen("unix", c.path("bus")); err != nil {
		t.Fatal(err)
	}
	c.served.Go(c.serve)
	t.Cleanup(func() {
		c.bus.Close()
		c.off()
		c.served.Wait()
		os.RemoveAll(dir)
	})
	c.on()
	return c
}

func (c *chip) path(name string) string { return filepath.Join(c.dir, name) }

// address is how a provider reaches it.
func (c *chip) address() string { return "swtpm:unix:" + c.path("bus") }

func (c *chip) on() {
	c.t.Helper()
	c.switching.Lock()
	defer c.switching.Unlock()
	os.Remove(c.path("server"))
	c.power = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+c.dir, "--ctrl", "type=unixio,path="+c.path("ctrl"),
		"--server", "type=unixio,path="+c.path("server"), "--flags", "not-need-init,startup-clear")
	if err := c.power.Start(); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, "swtpm listens", func() bool {
		conn, err := net.Dial("unix", c.path("server"))
		return err == nil && conn.Close() == nil
	})
}

// off cuts the power.
func (c *chip) off() {
	c.switching.Lock()
	defer c.switching.Unlock()
	if c.power != nil {
		c.power.Process.Kill()
		c.power.Wait()
		c.power = nil
	}
}

// reset cuts the power for a moment.
func (c *chip) reset() {
	c.t.Helper()
	c.off()
	c.on()
}

// hook has f called before each command.
func (c *chip) hook(f func(tpm2.TPMCC)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = f
}

// keep has what crosses the bus from now on kept.
func (c *chip) keep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record = []byte{}
}

// crossed tells whether something of what was kept has crossed the bus in clear.
func (c *chip) crossed(b []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Contains(c.record, b)
}

// asked returns how often each command was sent since the last call.
func (c *chip) asked() map[tpm2.TPMCC]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := maps.Clone(c.counts)
	clear(c.counts)
	return counts
}

func (c *chip) serve() {
	for {
		conn, err := c.bus.Accept()
		if err != nil {
			return
		}
		c.pass(conn) // swtpm serves one at a time, too
	}
}

// pass passes commands and responses on until one side ends.
func (c *chip) pass(conn net.Conn) {
	defer conn.Close()
	server, err := net.Dial("unix", c.path("server"))
	if err != nil {
		return
	}
	defer server.Close()
	for {
		command, err := tpmFrame(conn)
		if err != nil {
			return
		}
		cc := tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))
		c.mu.Lock()
		c.counts[cc]++
		if c.record != nil {
			c.record = append(c.record, command...)
		}
		before := c.before
		c.mu.Unlock()
		if before != nil {
			before(cc)
		}
		if _, err := server.Write(command); err != nil {
			return
		}
		response, err := tpmFrame(server)
		if err != nil {
			return
		}
		c.mu.Lock()
		if c.record != nil {
			c.record = append(c.record, response...)
		}
		c.mu.Unlock()
		if _, err := conn.Write(response); err != nil {
			return
		}
	}
}

// tpmFrame reads a command or a response.
func tpmFrame(r io.Reader) ([]byte, error) {
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < 10 || size > 4096 {
		return nil, io.ErrUnexpectedEOF
	}
	whole := append(header, make([]byte, size-10)...)
	_, err := io.ReadFull(r, whole[10:])
	return whole, err
}

// failures asks the chip how many wrong authorisation values it has counted. Nobody else may use it meanwhile.
func (c *chip) failures() uint32 {
	c.t.Helper()
	conn, err := net.Dial("unix", c.path("server"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTLockoutCounter), PropertyCount: 1}.Execute(tpmConn{conn})
	if err != nil {
		c.t.Fatal(err)
	}
	list, err := r.CapabilityData.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) != 1 {
		c.t.Fatal("no lockout counter", err)
	}
	return list.TPMProperty[0].Value
}

// A tpmConn is a connection as the library wants it.
type tpmConn struct{ net.Conn }

func (c tpmConn) Send(command []byte) ([]byte, error) {
	if _, err := c.Write(command); err != nil {
		return nil, err
	}
	return tpmFrame(c)
}
