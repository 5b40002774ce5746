// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

const sendUsage = `Usage: mslkeep send --config FILE [FLAGS] [DATA]

Sends DATA, a file, or standard input as one message, and writes the data of the answer to standard
output. With --count it sends many, drops their answers, and prints how that went.

Examples:
  mslkeep send --config send.toml hello
  mslkeep send --config send.toml --file big.bin > answer.bin
  mslkeep send --config send.toml --count 10000 --size 1024 --concurrency 64
`

// sendConfig is the section [send].
type sendConfig struct {
	URL   string `toml:"url"`
	Store string `toml:"store"` // file of tokens and sealed sessions; none if empty

	TLSRoots string `toml:"tls-roots-file"` // certificates, for https, wss and tls; those of the system if empty

	User         string `toml:"user"`
	Email        string `toml:"email"`
	PasswordFile string `toml:"password-file"`
	UserFrom     string `toml:"user-from"` // store with a user ID token of before: USER_ID_TOKEN
}

// sendFlags are the flags of send, and of what bench and demo send.
type sendFlags struct {
	config, url, file, store            string
	count, concurrency, size, chunk     int
	protection, compression             string
	network                             networkFlags
	nonReplayable, requestTokens        bool
	oneWay                              bool
	json, lines                         bool
	user, email, passwordFile, userFrom string
	entity                              entityConfig
	serviceTokens                       []string
	timeout                             time.Duration
}

func (f *sendFlags) define(flags *flag.FlagSet) {
	flags.StringVar(&f.config, "config", "", "configuration `file`")
	flags.StringVar(&f.url, "url", "", "`URL` of the peer, instead of the file's")
	flags.StringVar(&f.store, "store", "", "`file` to keep tokens and sealed sessions in, instead of the configuration's")
	flags.StringVar(&f.file, "file", "", "send this `file`; - is standard input")
	flags.IntVar(&f.count, "count", 1, "how many messages to send")
	flags.IntVar(&f.concurrency, "concurrency", 1, "how many messages to have under way at once")
	flags.IntVar(&f.size, "size", 0, "send this many `bytes` of zeros instead of data")
	flags.IntVar(&f.chunk, "chunk-size", 0, "most `bytes` of data in one payload (default 65536)")
	flags.StringVar(&f.protection, "protection", "encrypted", "what the data must have: encrypted, integrity, none")
	flags.StringVar(&f.compression, "compression", "", "GZIP, LZW or NONE (default: the first that both sides have)")
	f.network.define(flags, "the server", "offer")
	flags.BoolVar(&f.nonReplayable, "non-replayable", false, "the peer must accept the message at most once")
	flags.BoolVar(&f.requestTokens, "request-tokens", false, "get a master token, and a user ID token if there is a user, first")
	flags.BoolVar(&f.oneWay, "one-way", false, "wait for no answer")
	flags.BoolVar(&f.json, "json", false, "print a report as JSON instead of the answer's data")
	flags.BoolVar(&f.lines, "lines", false, "send each line of standard input as a message of its own, and print a line for each")
	flags.StringVar(&f.user, "user", "", "local `name` of the user on whose behalf to send")
	flags.StringVar(&f.email, "email", "", "the user's e-mail `address`, to authenticate with")
	flags.StringVar(&f.passwordFile, "password-file", "", "`file` whose first line is the user's password")
	flags.StringVar(&f.userFrom, "user-from", "", "`file`, a --store of before, whose user ID token authenticates the user instead of a password")
	f.entity.define(flags)
	defineServiceTokens(flags, &f.serviceTokens)
	flags.DurationVar(&f.timeout, "timeout", 30*time.Second, "give up on a message after this `time`")
}

func send(ctx context.Context, c *cli, args []string) error {
	flags := flag.NewFlagSet("send", flag.ContinueOnError)
	var f sendFlags
	f.define(flags)
	printExample := flags.Bool("example", false, "print a configuration that explains every field, and exit")
	if err := parse(c, flags, sendUsage, args, -1); err != nil {
		return err
	}
	if flags.NArg() > 1 {
		return usageError("takes one argument, not %d; quote data that has spaces", flags.NArg())
	}
	if *printExample {
		return example(c, "send.toml")
	}
	cfg, err := loadConfig(f.config)
	if err != nil {
		return err
	}
	if err := f.override(cfg); err != nil {
		return err
	}
	s, err := newSender(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.close()
	request, err := f.request(c, cfg, flags.Args())
	if err != nil {
		return err
	}
	switch {
	case f.lines:
		return s.lines(ctx, c, &f, request)
	case f.count != 1:
		return s.load(ctx, c, &f, request)
	}
	return s.one(ctx, c, &f, request)
}

// override lets flags win over the file.
func (f *sendFlags) override(cfg *config) error {
	for _, o := range []struct {
		to   *string
		from string
	}{
		{&cfg.Send.URL, f.url}, {&cfg.Send.Store, f.store}, {&cfg.Send.User, f.user}, {&cfg.Send.Email, f.email}, {&cfg.Send.PasswordFile, f.passwordFile},
		{&cfg.Send.UserFrom, f.userFrom},
	} {
		if o.from != "" {
			*o.to = o.from
		}
	}
	f.network.override(cfg)
	return f.entity.override(cfg)
}

// A sender is a client with what belongs to it.
type sender struct {
	keys   *agent.Client
	client *msl.Client
	store  *msl.FileStore
	hangUp func() // ends connections that are not in use
}

func newSender(ctx context.Context, cfg *config) (*sender, error) {
	if cfg.Send.URL == "" {
		return nil, configError(errors.New("there is no URL to send to"), "set url in [send], or --url")
	}
	mslConfig, err := cfg.msl()
	if err != nil {
		return nil, err
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	s := &sender{}
	if t, ok := transport.(*msl.StreamTransport); ok {
		s.hangUp = t.CloseIdle
	}
	var store msl.Store
	if cfg.Send.Store != "" {
		if s.store, err = msl.OpenFileStore(cfg.path(cfg.Send.Store)); err != nil {
			hint := ""
			if errors.Is(err, msl.ErrStoreInUse) {
				hint = "another mslkeep send uses it; give this one its own --store"
			}
			return nil, configError(err, hint)
		}
		store = s.store
	}
	if cfg.Send.Email != "" && cfg.Send.UserFrom != "" {
		s.close()
		return nil, configError(errors.New("[send] has both email and user-from"), "use one of the two")
	}
	if s.keys, err = cfg.connect(ctx); err == nil {
		err = cfg.checkEntity(ctx, s.keys, mslConfig.Entity)
	}
	if err == nil {
		mslConfig.Entity, err = cfg.protect(ctx, s.keys, mslConfig.Entity)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	s.client, err = msl.NewClient(mslConfig, s.keys, transport, store)
	if err != nil {
		s.close()
		return nil, configError(err, "")
	}
	return s, nil
}

func (s *sender) close() {
	if s.client != nil {
		s.client.Close()
	}
	if s.hangUp != nil {
		s.hangUp()
	}
	if s.keys != nil {
		s.keys.Close()
	}
	if s.store != nil {
		s.store.Close()
	}
}

// request makes the pattern of the messages to send.
func (f *sendFlags) request(c *cli, cfg *config, args []string) (*msl.Request, error) {
	r := &msl.Request{
		NonReplayable: f.nonReplayable, RequestTokens: f.requestTokens, User: cfg.Send.User,
		Compression: f.compression, ChunkSize: f.chunk, Credentials: credentials(cfg),
	}
	switch f.protection {
	case "encrypted":
	case "integrity":
		r.Protection = msl.IntegrityProtected
	case "none":
		r.Protection = msl.Unprotected
	default:
		return nil, usageError("--protection %q is not encrypted, integrity or none", f.protection)
	}
	if err := checkCompression(f.compression); err != nil {
		return nil, err
	}
	var err error
	if r.ServiceTokens, err = newServiceTokens(cfg, f.serviceTokens); err != nil {
		return nil, err
	}
	switch {
	case f.size > 0:
		r.Body = io.NewSectionReader(zeros{}, 0, int64(f.size))
	case len(args) == 1:
		r.Body = strings.NewReader(args[0])
	case f.file != "" && f.file != "-":
		file, err := os.Open(f.file)
		if err != nil {
			return nil, err
		}
		r.Body = file
	default:
		r.Body = c.in
	}
	return r, nil
}

// zeros is as many zeros as one likes.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// credentials reads the password, or the user ID token of before, when it is needed, and not again when the
// peer rejected it.
func credentials(cfg *config) func(context.Context, bool) (*msl.UserAuthData, error) {
	s := cfg.Send
	if s.Email == "" && s.UserFrom == "" {
		return nil
	}
	return func(ctx context.Context, again bool) (*msl.UserAuthData, error) {
		switch {
		case again && s.UserFrom != "":
			return nil, &exitError{exitRefused, errors.New("the peer rejected the user ID token"), "log in with --email and --password-file"}
		case again:
			return nil, &exitError{exitRefused, errors.New("the peer rejected the e-mail address or the password"), "check --email and --password-file"}
		case s.UserFrom != "":
			return cfg.earlierUser(ctx)
		}
		data, err := os.ReadFile(cfg.path(s.PasswordFile))
		if err != nil {
			return nil, configError(fmt.Errorf("reading the password: %w", err), "set --password-file")
		}
		line, _, _ := strings.Cut(string(data), "\n")
		return msl.EmailPassword(s.Email, strings.TrimSuffix(line, "\r")), nil
	}
}

// earlierUser returns the user whom a store of before names.
func (c *config) earlierUser(ctx context.Context) (*msl.UserAuthData, error) {
	earlier, err := c.earlier(ctx, c.Send.UserFrom)
	if err != nil {
		return nil, configError(fmt.Errorf("reading the user ID token: %w", err), "set --user-from to the --store of an earlier run")
	}
	data, err := msl.EarlierUserIDToken(earlier, c.Send.User)
	if err != nil {
		return nil, configError(fmt.Errorf("there is no user ID token of user %q: %w", c.Send.User, err), "name the --user of the earlier run")
	}
	return data, nil
}

// A report is what --json prints of a message and its answer.
type report struct {
	Bytes              int64   `json:"bytes"` // of the answer's data
	Encrypted          bool    `json:"encrypted"`
	IntegrityProtected bool    `json:"integrity_protected"`
	MasterToken        bool    `json:"master_token"`  // the answer came under a session
	KeyExchange        bool    `json:"key_exchange"`  // the answer brought a new master token
	UserIDToken        bool    `json:"user_id_token"` // the answer names the user
	ServiceTokens      int     `json:"service_tokens"`
	Milliseconds       float64 `json:"milliseconds"`
	AgentPID           int     `json:"agent_pid"`
	Error              string  `json:"error,omitempty"` // with --lines; else it goes to standard error
}

// message sends one message and copies the data of the answer to w.
func (s *sender) message(ctx context.Context, f *sendFlags, r *msl.Request, w io.Writer) (*report, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	start := time.Now()
	if f.oneWay {
		if err := s.client.Send(ctx, r); err != nil {
			return nil, refused(err)
		}
		return &report{Milliseconds: milliseconds(start), AgentPID: s.keys.PID()}, nil
	}
	answer, err := s.client.Do(ctx, r)
	if err != nil {
		return nil, refused(err)
	}
	defer answer.Close()
	n, err := io.Copy(w, answer)
	if err != nil {
		return nil, refused(err)
	}
	return &report{
		Bytes: n, Encrypted: answer.Encrypted, IntegrityProtected: answer.IntegrityProtected,
		MasterToken: answer.MasterToken != nil, KeyExchange: answer.Exchanged,
		UserIDToken:   answer.UserIDToken != nil || answer.PeerUserIDToken != nil,
		ServiceTokens: len(answer.ServiceTokens) + len(answer.PeerServiceTokens),
		Milliseconds:  milliseconds(start), AgentPID: s.keys.PID(),
	}, nil
}

func milliseconds(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

// one sends one message and prints the answer, or the report.
func (s *sender) one(ctx context.Context, c *cli, f *sendFlags, r *msl.Request) error {
	out := c.out
	if f.json {
		out = io.Discard
	}
	report, err := s.message(ctx, f, r, out)
	switch {
	case err != nil:
	case f.json:
		err = printJSON(c.out, report)
	case isTerminal(c.out):
		_, err = fmt.Fprintln(c.out) // only people mind where the next line begins
	}
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// maxLine bounds a line that --lines sends, in bytes.
const maxLine = 16 << 20

// lines sends each line of the input as a message. A message that fails does not end it: its error is
// printed in the place of its answer.
func (s *sender) lines(ctx context.Context, c *cli, f *sendFlags, r *msl.Request) error {
	lines := bufio.NewScanner(c.in)
	lines.Buffer(nil, maxLine)
	out := json.NewEncoder(c.out)
	for lines.Scan() && ctx.Err() == nil {
		var answer bytes.Buffer
		r.Body = bytes.NewReader(lines.Bytes())
		line, err := s.message(ctx, f, r, &answer)
		switch {
		case f.json && err != nil:
			err = out.Encode(report{Error: err.Error(), AgentPID: s.keys.PID()})
		case f.json:
			err = out.Encode(line)
		case err != nil:
			_, err = fmt.Fprintf(c.err, "mslkeep: send: %v\n", err)
		default:
			_, err = fmt.Fprintf(c.out, "%s\n", answer.Bytes())
		}
		if err != nil {
			return err
		}
	}
	return lines.Err()
}

// refused gives errors of the peer their exit code and a hint.
func refused(err error) error {
	var remote *msl.RemoteError
	if !errors.As(err, &remote) {
		return err
	}
	const unknown = "compare [entity] with [peers] and the pre-shared keys of the peer, which does not know this entity or its key"
	hint := ""
	switch remote.Response {
	case msl.TransientFailure:
		hint = "try again later"
	case msl.EntityDataReauth, msl.EntityReauth:
		hint = unknown
	case msl.UserDataReauth, msl.UserReauth:
		hint = "the peer does not accept the user; check --user, --email and --password-file"
	case msl.KeyxRequired:
		hint = "the two sides have no key exchange in common; compare key-exchanges in [msl]"
	}
	switch remote.Code() {
	case msl.EntityNotFound, msl.IncorrectEntityAuthData, msl.EntityAuthFactoryNotFound:
		hint = unknown
	case msl.EntityRevoked, msl.MasterTokenIdentityRevoked:
		hint = "the peer refuses this entity: see revoked in its [peers]"
	case msl.KeyxFactoryNotFound:
		hint = "the two sides have no key exchange in common; compare key-exchanges in [msl]"
	}
	return &exitError{exitRefused, err, hint}
}
