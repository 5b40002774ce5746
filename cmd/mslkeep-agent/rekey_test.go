// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// onTerminal runs the command with a terminal of its own, where each prompt gets the next answer.
func onTerminal(t *testing.T, answers []string, args ...string) (output string, err error) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(os.Args[0], args...)
	command.Env = append(os.Environ(), asCommand+"=1")
	command.Stdin, command.Stdout, command.Stderr = slave, slave, slave
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	var seen bytes.Buffer
	for r := bufio.NewReader(master); ; {
		b, err := r.ReadByte()
		if err != nil { // EIO: the command has ended
			break
		}
		if seen.WriteByte(b); len(answers) > 0 && bytes.HasSuffix(seen.Bytes(), []byte(": ")) && silent(t, master) {
			io.WriteString(master, answers[0]+"\n")
			answers = answers[1:]
		}
	}
	return seen.String(), command.Wait()
}

// silent waits until the terminal does not show what is typed.
func silent(t *testing.T, terminal *os.File) bool {
	for {
		mode, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
		if err != nil {
			t.Error(err)
			return false
		}
		if mode.Lflag&unix.ECHO == 0 {
			return true
		}
	}
}

// TestRekey: a key file opens with another secret from then on, also one that is typed, and only with that.
func TestRekey(t *testing.T) {
	path := initialized(t, "")
	dir := filepath.Dir(path)
	set := func(setting string) {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		lines[1] = setting
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again := func(setting string) error {
		t.Helper()
		set(setting)
		var out bytes.Buffer
		err := run(t.Context(), []string{"init", "--config", path}, &out)
		if err == nil && strings.Contains(out.String(), "made") {
			t.Errorf("%s: keys are missing: %s", setting, out.String())
		}
		return err
	}
	t.Chdir(dir)
	var out bytes.Buffer
	if err := run(t.Context(), []string{"rekey", "--config", path, "--key-source", "file:other"}, &out); err != nil {
		t.Fatal(err)
	}
	if again(`key-source = "file:unlock"`) == nil {
		t.Error("the old key still opens it")
	}
	if err := again(`key-source = "file:other"`); err != nil {
		t.Fatal(err)
	}

	const secret = "correct horse"
	if output, err := onTerminal(t, []string{secret, "another"}, "rekey", "--config", path, "--passphrase-source", "tty"); err == nil {
		t.Errorf("two passphrases: %s", output)
	}
	if err := again(`key-source = "file:other"`); err != nil {
		t.Fatal(err)
	}
	output, err := onTerminal(t, []string{secret, secret}, "rekey", "--config", path, "--passphrase-source", "tty")
	if err != nil || strings.Contains(output, secret) {
		t.Fatalf("%v: %s", err, output)
	}
	if again(`key-source = "file:other"`) == nil {
		t.Error("the old key still opens it")
	}
	if err := os.WriteFile("passphrase", []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again(`passphrase-source = "file:passphrase"`); err != nil {
		t.Fatal(err)
	}
	set(`passphrase-source = "tty"`)
	if output, err := onTerminal(t, []string{secret}, "init", "--config", path); err != nil {
		t.Errorf("%v: %s", err, output)
	}
	if output, err := onTerminal(t, []string{"wrong"}, "init", "--config", path); err == nil {
		t.Errorf("a wrong passphrase: %s", output)
	}
}
