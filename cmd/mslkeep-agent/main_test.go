// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/plugin"
)

// asCommand, if set, makes this test binary the command itself.
const asCommand = "MSLKEEP_AGENT_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	if plugin.IsChild() {
		if err := providerMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// configured writes a configuration, and makes its keys unless more settings are wrong.
func configured(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "agent.toml")
	text := "keys = \"keys\"\nkey-source = \"file:unlock\"\ntoken-keys = \"token-keys\"\nstorage-key = \"storage\"\n" + more
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func initialized(t *testing.T, more string) string {
	t.Helper()
	path := configured(t, more)
	var out bytes.Buffer
	if err := run(t.Context(), []string{"init", "--config", path}, &out); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestExample keeps the example true: it parses as it is, documents every field, and shows the defaults.
func TestExample(t *testing.T) {
	if _, err := parseConfig(example); err != nil {
		t.Fatal(err)
	}
	full := regexp.MustCompile(`(?m)^# ([a-z0-9-]+ = |\[\[)`).ReplaceAllString(example, "$1")
	shown, err := parseConfig(full)
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := parseConfig("keys = \"keys.mslkeep\"\nkey-source = \"file:unlock.key\"\ntoken-keys = \"token-keys\"\nstorage-key = \"storage\"")
	if err != nil {
		t.Fatal(err)
	}
	l := &defaults.Limits // those of package custody
	*l = limitsConfig{24 * time.Hour, time.Hour, 1 << 32, 1 << 38, 1 << 16, 1 << 12, 1 << 12, 1 << 14, 10 * time.Minute, 100}
	shown.Allow = nil // shown empty
	if groups, err := shown.dhGroups(); len(groups) != 2 || err != nil {
		t.Errorf("groups %v: %v", groups, err)
	}
	shown.Groups = nil
	if err := checkProviders(shown.Providers); err != nil || len(shown.Providers) != 1 {
		t.Errorf("providers %v: %v", shown.Providers, err)
	}
	shown.Providers = nil
	if !reflect.DeepEqual(shown, defaults) {
		t.Errorf("the example shows %+v, the defaults are %+v", shown, defaults)
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[config](), reflect.TypeFor[limitsConfig](), reflect.TypeFor[dhGroup](), reflect.TypeFor[providerConfig]()} {
		for i := range typ.NumField() {
			if name := typ.Field(i).Tag.Get("toml"); name != "" && !strings.Contains(full, "\n"+name+" = ") && name != "limits" && name != "dh-groups" && name != "providers" && name != "settings" {
				t.Errorf("the example does not document %s", name)
			}
		}
	}
}

func TestConfigRefusals(t *testing.T) {
	const good = "keys = \"k\"\nkey-source = \"tty\"\n"
	for _, bad := range []string{
		"", "keys = \"k\"", "key-source = \"tty\"", good + "passphrase-source = \"tty\"", good + "pin = \"1234\"", good + "[limits]\nage = \"-1s\"",
		good + "[limits]\nage = 5x", good + "[limits]\nsessions = -1", good + "[limits]\nuse = 1", good + "psk-prefix = \"rsa/\"",
		good + "rsa-prefix = \"\"", good + "ec-prefix = \"rsa/\"", good + "ec-prefix = \"\"", good + "allow = \"RSA\"", good + "[[dh-groups]]\nid = \"x\"", good + "[[dh-groups]]\nid = \"x\"\ngroup = \"modp1\"",
		good + "[[dh-groups]]\ngroup = \"modp2048\"", good + "[[dh-groups]]\nid = \"x\"\ngroup = \"modp2048\"\np = \"17\"\ng = \"2\"",
		good + "[[dh-groups]]\nid = \"x\"\np = \"2g\"\ng = \"2\"", good + strings.Repeat("[[dh-groups]]\nid = \"x\"\ngroup = \"modp2048\"\n", 2), good + "\x00", good + "[[providers]]\nname = \"a\"\nsha256 = \"0\"", good + "[[providers]]\nname = \"a\"\nbinary = \"/a\"",
		good + "[[providers]]\nname = \"A:\"\nbinary = \"/a\"\nsha256 = \"0\"", good + strings.Repeat("[[providers]]\nname = \"a\"\nbinary = \"/a\"\nsha256 = \"0\"\n", 2),
		good + "[[providers]]\nname = \"a\"\nbinary = \"/a\"\nsha256 = \"0\"\npin = \"1\"", good + "[limits]\nuses = -1",
		good + "[[providers]]\nname = \"a\"\nbinary = \"/a\"\nsha256 = \"0\"\nprocesses = 17", good + "[[providers]]\nname = \"a\"\nbinary = \"/a\"\nsha256 = \"0\"\nprocesses = -1",
	} {
		if c, err := parseConfig(bad); err == nil {
			t.Errorf("taken: %q: %+v", bad, c)
		}
	}
	if _, err := parseConfig(good); err != nil {
		t.Error(err)
	}
}

func TestExitCodes(t *testing.T) {
	good := initialized(t, "")
	damaged, wrong, other := initialized(t, ""), initialized(t, ""), initialized(t, "")
	if err := os.WriteFile(filepath.Join(filepath.Dir(damaged), "keys"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(wrong), "unlock"), bytes.Repeat([]byte("ab"), 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(filepath.Dir(other), "keys"), 0o644); err != nil {
		t.Fatal(err)
	}
	noToken := initialized(t, "")
	text, err := os.ReadFile(noToken)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(noToken, bytes.Replace(text, []byte("token-keys\""), []byte("missing\""), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	sock := "unix:" + filepath.Join(filepath.Dir(good), "sock")
	lax := t.TempDir()
	if err := os.Chmod(lax, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string // part of the line
	}{
		{"", exitUsage, "--config"},
		{"--config " + good, exitUsage, "--listen"},
		{"fly", exitUsage, "fly"},
		{"--config " + good + " --listen tcp:1", exitUsage, "unix:PATH"},
		{"--config " + good + " --listen " + sock + " --allow-uid root", exitUsage, "numbers"},
		{"--config " + good + " --listen " + sock + " more", exitUsage, "more"},
		{"init --config " + good + " --listen " + sock, exitUsage, "init"},
		{"doctor --config " + good + " --listen " + sock, exitUsage, "doctor"},
		{"doctor --config " + good + " --needs rsa", exitUsage, "rsa/NAME"},
		{"doctor --config " + good + " --needs token/x", exitUsage, "rsa/NAME"},
		{"init --json --config " + good, exitUsage, "doctor"},
		{"doctor", exitUsage, "--config"},
		{"init --name x --config " + good, exitUsage, "provider hash"},
		{"provider hash --name x", exitUsage, "BINARY"},
		{"provider hash /bin/true --name A", exitUsage, "small letters"},
		{"provider hash /bin/true --env =x", exitUsage, "NAME"},
		{"--config /nonexistent/agent.toml --listen " + sock, exitConfig, "/nonexistent"},
		{"--config " + configured(t, "colour = 1") + " --listen " + sock, exitConfig, "colour"},
		{"--config " + initialized(t, "")[:1] + " --listen " + sock, exitConfig, "configuration"},
		{"--config " + noToken + " --listen " + sock, exitConfig, "init"},
		{"--config " + configured(t, "") + " --listen " + sock, exitKeys, "init"},
		{"--config " + damaged + " --listen " + sock, exitKeys, "backup"},
		{"--config " + wrong + " --listen " + sock, exitKeys, "key-source"},
		{"--config " + other + " --listen " + sock, exitKeys, "chmod 600"},
		{"--config " + good + " --listen unix:" + lax + "/sock", exitFailure, "folder"},
		{"--config " + good + " --listen unix:" + good, exitFailure, "something else"},
	} {
		cmd := exec.Command(os.Args[0], strings.Fields(c.args)...)
		cmd.Env = append(os.Environ(), asCommand+"=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		exit, ok := errors.AsType[*exec.ExitError](err)
		line := stderr.String()
		if !ok || exit.ExitCode() != c.code || len(out) > 0 {
			t.Errorf("%s: %v, want %d: %s%s", c.args, err, c.code, out, line)
		}
		if !strings.HasPrefix(line, "mslkeep-agent: ") || strings.Count(line, "\n") != 1 || !strings.Contains(line, c.want) {
			t.Errorf("%s: not one line with %q: %q", c.args, c.want, line)
		}
	}
	if _, err := parseArgs([]string{"--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
	for arg, want := range map[string]string{"--help": "Usage:", "--version": "mslkeep-agent ", "example": "[limits]"} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{arg}, &out); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

func TestInitAgain(t *testing.T) {
	path := initialized(t, "")
	before, err := os.ReadFile(filepath.Join(filepath.Dir(path), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"init", "--config", path}, &out); err != nil || strings.Contains(out.String(), "made") {
		t.Errorf("%s, %v", out.String(), err)
	}
	if after, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "keys")); !bytes.Equal(before, after) {
		t.Error("the file of keys was written")
	}
	// The unlock key lost: no new one is made, which would open nothing.
	if err := os.Remove(filepath.Join(filepath.Dir(path), "unlock")); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"init", "--config", path}, &out); err == nil {
		t.Error("initialised without the key that unlocks")
	}
	if !missing(filepath.Join(filepath.Dir(path), "unlock")) {
		t.Error("a new unlock key was made")
	}
}

// startChild runs the agent as mslkeep does.
func startChild(t *testing.T, path string) (*wire.Client, *plugin.Process, *lines) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := plugin.HashFile(self)
	if err != nil {
		t.Fatal(err)
	}
	log := new(lines)
	p, err := plugin.Start(t.Context(), plugin.Spec{Path: self, SHA256: hash, Protocol: wire.Version,
		Args: []string{"--config", path, "--manage"}, Env: []string{asCommand + "=1"}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	c, err := wire.NewClient(t.Context(), p.Conn(), wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, p, log
}

// lines collects what a child says.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestChild(t *testing.T) {
	path := initialized(t, "")
	c, p, _ := startChild(t, path)
	exercise(t, c)
	if c.Hello().AgentPID != uint32(p.PID()) {
		t.Errorf("says it is %d, is %d", c.Hello().AgentPID, p.PID())
	}
	var health wire.HealthReply
	if err := c.Call(t.Context(), &wire.HealthRequest{}, &health); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"dumpable", "core-dumps", "provider", "token keys", "storage key"} {
		ok := false
		for _, f := range health.Findings {
			ok = ok || f.Name == want && f.OK
		}
		if !ok {
			t.Errorf("health: %s is missing or not well: %+v", want, health.Findings)
		}
	}
	if f, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.PID())); err == nil && os.Geteuid() != 0 {
		f.Close()
		t.Error("its memory can be opened")
	}
}

// exercise seals and opens a part under a pre-shared key that it makes.
func exercise(t *testing.T, c *wire.Client) {
	t.Helper()
	if err := trySeal(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func trySeal(ctx context.Context, c *wire.Client) error {
	name := fmt.Sprintf("device-%d", time.Now().UnixNano())
	if err := c.Call(ctx, &wire.GenerateKeyRequest{Name: "psk/" + name, Type: "keyset"}, new(wire.ChangedKeysReply)); err != nil {
		return err
	}
	var entity wire.EntityContextReply
	if err := c.Call(ctx, &wire.EntityContextRequest{Scheme: "PSK", Identity: name}, &entity); err != nil {
		return err
	}
	var sealed wire.SealReply
	if err := c.Call(ctx, &wire.SealRequest{Context: entity.Context, Plain: [][]byte{[]byte("hello")}}, &sealed); err != nil {
		return err
	}
	var opened wire.OpenReply
	if err := c.Call(ctx, &wire.OpenRequest{Context: entity.Context, Parts: sealed.Parts}, &opened); err != nil {
		return err
	}
	if opened.FailedPart != -1 || len(opened.Plain) != 1 || string(opened.Plain[0]) != "hello" {
		return fmt.Errorf("opened %+v", opened)
	}
	return nil
}

func TestKeyLog(t *testing.T) {
	path := initialized(t, "")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, `key-log = "log"`)
	f.Close()
	c, _, log := startChild(t, path)
	exercise(t, c)
	got, err := os.ReadFile(filepath.Join(filepath.Dir(path), "log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"software:token-keys.enc:1 ", "software:storage:1 "} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is not in the key log", want)
		}
	}
	if !strings.Contains(log.String(), "WARNING") {
		t.Errorf("no warning: %s", log)
	}
}

// startService runs the agent as a service manager does, and waits until it listens.
func startService(t *testing.T, path, sock string, more ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"--config", path, "--manage", "--listen", "unix:" + sock}, more...)...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	said := ""
	for buf := make([]byte, 4096); !strings.Contains(said, "listening"); {
		n, err := stderr.Read(buf)
		if said += string(buf[:n]); err != nil {
			t.Fatalf("it does not listen: %s", said)
		}
	}
	return cmd
}

func dial(t *testing.T, sock string) *wire.Client {
	t.Helper()
	conn, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	c, err := wire.NewClient(t.Context(), conn, wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestService(t *testing.T) {
	path := initialized(t, "")
	sock := filepath.Join(filepath.Dir(path), "sock")
	// A socket that a killed agent left behind is no obstacle.
	old := startService(t, path, sock)
	old.Process.Kill()
	old.Wait()
	cmd := startService(t, path, sock)
	if st, err := os.Stat(sock); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := run(t.Context(), []string{"--config", path, "--listen", "unix:" + sock}, nil); err == nil {
		t.Error("two agents listen on one socket")
	}
	clients := []*wire.Client{dial(t, sock), dial(t, sock), dial(t, sock)}
	for _, c := range clients {
		exercise(t, c)
	}

	// Under load, SIGTERM lets what is under way finish: a request succeeds, or fails as transient.
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			for {
				if err := trySeal(t.Context(), c); errors.Is(err, wire.Transient) {
					return
				} else if err != nil {
					t.Errorf("while ending: %v", err)
					return
				}
			}
		})
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	wg.Wait()
	if !missing(sock) {
		t.Error("the socket is still there")
	}
}

func TestServiceRefusesOthers(t *testing.T) {
	path := initialized(t, "")
	sock := filepath.Join(filepath.Dir(path), "sock")
	startService(t, path, sock, "--allow-uid", fmt.Sprint(os.Geteuid()+1))
	conn, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.NewClient(t.Context(), conn, wire.Options{}); err == nil {
		t.Error("a user that is not allowed was served")
	}
}
