// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// asCommand, if set, makes this test binary the command itself; "hold" makes it a process to search.
const asCommand = "MSLKEEP_SCAN_TEST"

// inBinary is in the memory of every process that runs this test binary, since it is part of it.
var inBinary = "d2b5c0ffee7d41a6"

func TestMain(m *testing.M) {
	switch os.Getenv(asCommand) {
	case "run":
		main()
	case "hold":
		fmt.Println(len(inBinary))
		os.Stdin.Read(make([]byte, 1))
	default:
		os.Exit(m.Run())
	}
}

// holder starts a process that holds inBinary.
func holder(t *testing.T) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asCommand+"=hold")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func keyLog(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestScan(t *testing.T) {
	pid := holder(t)
	keys := keyLog(t, fmt.Sprintf("known:1 %x\nother %x\n", inBinary, "4ac1fb72093e58d6"[:8]+inBinary[8:]))
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer pagemap.Close()
	cmd := exec.Command(os.Args[0], "--json", "--keys", keys, "--process", fmt.Sprintf("a=%d", pid), "--fd", "b=3:4:5")
	cmd.Env = append(os.Environ(), asCommand+"=run")
	cmd.ExtraFiles = []*os.File{mem, maps, pagemap}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Keys      int
		Processes []result
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if got.Keys != 2 || len(got.Processes) != 2 {
		t.Fatalf("%s", out)
	}
	for i, p := range got.Processes {
		if p.Name != string('a'+rune(i)) || p.PID != pid || p.Found != 1 || len(p.Labels) != 1 || p.Labels[0] != "known:1" {
			t.Errorf("%+v", p)
		}
	}
	if strings.Contains(string(out), inBinary) || strings.Contains(string(out), fmt.Sprintf("%x", inBinary)) {
		t.Error("a key was printed")
	}

	var text bytes.Buffer
	if err := run([]string{"--keys", keys, "--process", fmt.Sprintf("a=%d", pid)}, &text); err != nil || !strings.Contains(text.String(), "a: found 1,") {
		t.Errorf("%s, %v", text.String(), err)
	}
}

func TestRefusals(t *testing.T) {
	keys := keyLog(t, "a 000102030405060708\n")
	for _, args := range [][]string{
		{}, {"--keys", keys}, {"--process", "a=1"}, {"--keys", keys, "--process", "a"}, {"--keys", keys, "--process", "=1"},
		{"--keys", keys, "--process", "a=0"}, {"--keys", keys, "--fd", "a=1:2"}, {"--keys", keys, "--fd", "a=3"}, {"--keys", keys, "--fd", "a=3:4:5:6"}, {"--keys", keys, "--fd", "=3:4"},
		{"--nonsense"}, {"--keys", keys, "--process", "a=1", "more"},
	} {
		if err := run(args, nil); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
	if err := run([]string{"--help"}, nil); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
	for _, args := range [][]string{
		{"--keys", keys + "x", "--process", "a=1"},
		{"--keys", keyLog(t, ""), "--process", "a=1"},
		{"--keys", keyLog(t, "a b\n"), "--process", "a=1"},
		{"--keys", keys, "--process", "a=2147483647"},
	} {
		if err := run(args, nil); err == nil || errors.Is(err, errUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
