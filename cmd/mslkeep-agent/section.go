// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/mslkeep/mslkeep/plugin"
)

// A sectionText is what provider hash puts into the section that it prints, beside the hash.
type sectionText struct {
	name, module, token string
	env                 []string
}

func (s *sectionText) define(flags *flag.FlagSet) {
	flags.StringVar(&s.name, "name", "", "")
	flags.StringVar(&s.module, "module", "", "")
	flags.StringVar(&s.token, "token", "", "")
	flags.Func("env", "", func(v string) error {
		if name, _, _ := strings.Cut(v, "="); name == "" {
			return errors.New("must be NAME=VALUE or NAME")
		}
		s.env = append(s.env, v)
		return nil
	})
}

func (s *sectionText) empty() bool { return s.name+s.module+s.token == "" && s.env == nil }

// print prints a section that pins the binary, and a module that it loads if there is one.
func (s *sectionText) print(binary string, out io.Writer) error {
	if s.name != "" && !providerName.MatchString(s.name) {
		return usageError("--name must be of small letters, digits and hyphens")
	}
	binary, sum, err := pinned(binary)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "[[providers]]\nname = %q\nbinary = %q\nsha256 = %q\n", s.name, binary, sum)
	if s.env != nil {
		fmt.Fprintf(&b, "env = [")
		for i, v := range s.env {
			fmt.Fprintf(&b, "%s%q", []string{"", ", "}[min(i, 1)], v)
		}
		fmt.Fprintln(&b, "]")
	}
	if s.module != "" || s.token != "" {
		fmt.Fprintln(&b, "[providers.settings]")
	}
	if s.module != "" {
		module, sum, err := pinned(s.module)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "module = %q\nsha256 = %q\n", module, sum)
	}
	if s.token != "" {
		fmt.Fprintf(&b, "token = %q\n", s.token)
	}
	_, err = out.Write(b.Bytes())
	return err
}

func pinned(path string) (absolute, sum string, err error) {
	if absolute, err = filepath.Abs(path); err != nil {
		return "", "", err
	}
	sum, err = plugin.HashFile(absolute)
	return absolute, sum, err
}
