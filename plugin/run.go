// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// Run verifies a binary as [Start] does, runs it as an ordinary command, and waits for its end. Of spec it
// takes Path, SHA256, Args, Env, Input, and Log for the standard error. It returns the exit code; an error is a
// [*StartError] if the command did not run.
func Run(ctx context.Context, spec Spec, out io.Writer) (code int, err error) {
	binary, step, err := verified(spec.Path, spec.SHA256)
	if err != nil {
		return 0, &StartError{Path: spec.Path, Step: step, Err: err}
	}
	defer binary.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3") // of the command, once it has its descriptors
	cmd.Args = append([]string{spec.Path}, spec.Args...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = allowed(spec.Env), os.Stdin, out, spec.Log
	if spec.Input != nil {
		cmd.Stdin = spec.Input
	}
	cmd.ExtraFiles = []*os.File{binary}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // whose end would be the parent's, to the kernel
		done <- cmd.Run()
	}()
	err = <-done
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, &StartError{Path: spec.Path, Step: StepLaunch, Err: err}
	}
	return 0, nil
}
