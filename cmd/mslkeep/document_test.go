// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// A document's commands are run as they stand there, but for ports and for what a person does between two of them.

var (
	shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")
	exampleEnd = regexp.MustCompile(`--example ([|>])`)
)

// blocksOf returns the blocks of commands of a document, of which there must be n.
func blocksOf(t *testing.T, document string, n int) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", document))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, block := range shellBlock.FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, block[1])
	}
	if len(blocks) != n {
		t.Fatalf("%s has %d blocks of commands, not %d", document, len(blocks), n)
	}
	return blocks
}

// onFreePort puts a port on which nobody listens in the place of one that the commands name, or an example.
func onFreePort(t *testing.T, script, port string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, free, _ := net.SplitHostPort(l.Addr().String())
	script = strings.ReplaceAll(script, ":"+port, ":"+free)
	return exampleEnd.ReplaceAllString(script, "--example | sed s/:"+port+"/:"+free+"/ $1")
}

// whenReady lets the shell wait after what is left in the background, whose last word is given, until a condition holds: a
// person does not type the next command before. The condition may look at what it prints, in the file out.WORD.
func whenReady(script, word, condition string) string {
	return strings.ReplaceAll(script, word+" &\n", word+" > out."+word+" &\nuntil "+condition+"; do kill -0 $!; sleep 0.05; done\n")
}

// serves says that serve is there.
const serves = "grep -q http out.serve.toml"

// runScript runs commands in a folder until one fails, which none should, and returns what they print, in which all that is
// wanted must be.
func runScript(t *testing.T, dir, script string, env []string, want ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-eo", "pipefail", "-c", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"+script)
	cmd.Dir, cmd.WaitDelay = dir, 10*time.Second
	cmd.Env = append(append(os.Environ(), "PATH="+binaries+":"+os.Getenv("PATH")), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, w := range want {
		if !regexp.MustCompile(w).Match(out) {
			t.Errorf("there is no %q", w)
		}
	}
	if regexp.MustCompile(`(?m)^problem `).Match(out) {
		t.Error("doctor found problems")
	}
	t.Cleanup(func() {
		if t.Failed() || testing.Verbose() {
			t.Logf("%s", out)
		}
	})
	return string(out)
}

// buildOnce returns a function that builds a provider beside the other binaries, once.
func buildOnce(name, cgo string) func() error {
	return sync.OnceValue(func() error {
		cmd := exec.Command("go", "build", "-trimpath", "-o", binaries+"/", "../"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
		return nil
	})
}
