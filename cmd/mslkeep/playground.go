// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/mslkeep/mslkeep/agent"
)

// A playground is a folder with a server and two devices, each with a key agent of its own, made from
// nothing: what demo and bench play in.
type playground struct {
	dir    string
	keyLog bool
	tool   map[string]string // paths of mslkeep and the binaries beside it, by name
}

// agentFile is the agent's configuration of each.
var agentFile = template.Must(template.New("").Parse(`keys = "keys.mslkeep"
key-source = "file:unlock.key"
storage-key = "storage"
{{if .Server}}token-keys = "token-keys"{{end}}
{{if .KeyLog}}key-log = "key.log"{{end}}
`))

const serveFile = `[agent]
config = "agent.toml"
[entity]
scheme = "RSA"
identity = "server"
key-id = "server"
[[peers.rsa]]
key-id = "device-2"
public-key-file = "../device-2.pem"
[serve]
listen = "127.0.0.1:0"
[[serve.users]]
email = "ada@example.com"
user = "ada"
password-hash = "%s"
`

const sendFile = `[agent]
config = "agent.toml"
[entity]
scheme = "%s"
identity = "%s"
%s
[peers]
identity = "server"
[[peers.rsa]]
key-id = "server"
public-key-file = "../server.pem"
[send]
store = "tokens.json"
`

// newPlayground makes the folder's files and keys.
func newPlayground(ctx context.Context, dir string, keyLog bool) (*playground, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	beside := func(name string) string { return filepath.Join(filepath.Dir(self), name) }
	p := &playground{dir: dir, keyLog: keyLog, tool: map[string]string{
		"mslkeep": self, "mslkeep-agent": beside("mslkeep-agent"), "mslkeep-scan": beside("mslkeep-scan"),
	}}
	for name, sum := range map[string]string{"mslkeep-agent": agentSHA256, "mslkeep-scan": scanSHA256} {
		if err := checkSum(p.tool[name], sum); err != nil {
			return nil, &exitError{exitAgent, err, "build all of them with: make build"}
		}
	}
	for _, who := range []string{"server", "device-1", "device-2"} {
		if err := p.makeAgent(ctx, who); err != nil {
			return nil, err
		}
	}
	if err := p.makeKeys(ctx); err != nil {
		return nil, err
	}
	return p, p.makeConfigs()
}

// checkSum makes sure that a binary is the one that was built with this one.
func checkSum(path, sum string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != sum {
		return fmt.Errorf("%s is not the one that this mslkeep was built with", path)
	}
	return nil
}

func (p *playground) path(elem ...string) string {
	return filepath.Join(append([]string{p.dir}, elem...)...)
}

// makeAgent makes the files of one agent.
func (p *playground) makeAgent(ctx context.Context, who string) error {
	if err := os.MkdirAll(p.path(who), 0o700); err != nil {
		return err
	}
	var text strings.Builder
	if err := agentFile.Execute(&text, map[string]bool{"Server": who == "server", "KeyLog": p.keyLog}); err != nil {
		return err
	}
	file := p.path(who, "agent.toml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return err
	}
	return p.run(ctx, nil, "mslkeep-agent", "init", "--config", file)
}

// run runs a tool whose output goes to out, and turns its failure into what it said.
func (p *playground) run(ctx context.Context, out io.Writer, tool string, args ...string) error {
	cmd := exec.CommandContext(ctx, p.tool[tool], args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = out, &said
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return fmt.Errorf("%s %s: %w: %s", tool, args[0], err, lines[len(lines)-1])
	}
	return nil
}

// makeKeys gives server and devices their keys. The pre-shared key goes from a file into both agents;
// this process does not see it.
func (p *playground) makeKeys(ctx context.Context) error {
	psk := p.path("device-1.psk")
	file, err := os.OpenFile(psk, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = p.run(ctx, file, "mslkeep-agent", "random", "48")
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	defer os.Remove(psk)
	for _, k := range []struct {
		who, rsa string // whose agent, and the name of the key pair to make there
		psk      bool   // import the pre-shared key
	}{{"server", "server", true}, {"device-1", "", true}, {"device-2", "device-2", false}} {
		err := p.withAgent(ctx, k.who, func(a *agent.Client) error {
			if k.psk {
				if _, err := a.ImportKey(ctx, "psk/device-1", "keyset", psk, "hex"); err != nil {
					return err
				}
			}
			if k.rsa == "" {
				return nil
			}
			if _, err := a.GenerateKey(ctx, "rsa/"+k.rsa, "rsa-2048"); err != nil {
				return err
			}
			_, spki, err := a.PublicKey(ctx, "rsa/"+k.rsa, 0)
			if err != nil {
				return err
			}
			text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
			return os.WriteFile(p.path(k.rsa+".pem"), text, 0o600)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// withAgent starts somebody's agent for as long as f takes.
func (p *playground) withAgent(ctx context.Context, who string, f func(*agent.Client) error) error {
	log, err := p.log()
	if err != nil {
		return err
	}
	defer log.Close()
	cfg := &config{dir: p.path(who), log: log, Agent: agentConfig{Config: "agent.toml"}}
	a, err := cfg.connect(ctx, "--manage")
	if err != nil {
		return err
	}
	defer a.Close()
	return f(a)
}

// makeConfigs writes the configurations of server and devices, and the user's password.
func (p *playground) makeConfigs() error {
	password := rand.Text()
	files := map[string]string{
		"password":           password + "\n",
		"server/serve.toml":  fmt.Sprintf(serveFile, newPasswordHash(password)),
		"device-1/send.toml": fmt.Sprintf(sendFile, "PSK", "device-1", ""),
		"device-2/send.toml": fmt.Sprintf(sendFile, "RSA", "device-2", `key-id = "device-2"`),
	}
	for name, text := range files {
		if err := os.WriteFile(p.path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// log opens the file that gets what the processes say on standard error.
func (p *playground) log() (*os.File, error) {
	return os.OpenFile(p.path("log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// A player is a running process of the playground.
type player struct {
	cmd   *exec.Cmd
	agent int // process id of its key agent
	in    io.WriteCloser
	out   *bufio.Scanner
	url   string // of a server
}

// start starts a command of mslkeep that talks in lines of JSON.
func (p *playground) start(ctx context.Context, args ...string) (*player, error) {
	cmd := exec.CommandContext(ctx, p.tool["mslkeep"], args...)
	log, err := p.log()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	w := &player{cmd: cmd}
	if w.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewScanner(out)
	return w, cmd.Start()
}

// startServer starts the server and waits until it answers.
func (p *playground) startServer(ctx context.Context) (*player, error) {
	s, err := p.start(ctx, "serve", "--config", p.path("server", "serve.toml"), "--json")
	if err != nil {
		return nil, err
	}
	var ready struct {
		URL      string `json:"url"`
		AgentPID int    `json:"agent_pid"`
	}
	if err := s.read(&ready); err != nil {
		s.stop()
		return nil, fmt.Errorf("starting the server: %w", err)
	}
	s.url, s.agent = ready.URL, ready.AgentPID
	return s, nil
}

// say has a client that reads lines send one, and returns its report.
func (w *player) say(text string) (*report, error) {
	if _, err := io.WriteString(w.in, text+"\n"); err != nil {
		return nil, err
	}
	r := new(report)
	if err := w.read(r); err != nil {
		return nil, err
	}
	w.agent = r.AgentPID
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

func (w *player) read(v any) error {
	if !w.out.Scan() {
		if err := w.out.Err(); err != nil {
			return err
		}
		return errors.New("it ended early")
	}
	return json.Unmarshal(w.out.Bytes(), v)
}

// stop ends the process, and with it its agent.
func (w *player) stop() {
	w.in.Close()
	_ = w.cmd.Process.Signal(os.Interrupt)
	_ = w.cmd.Wait()
}
