// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/mslkeep/mslkeep/msl"
)

// refusing answers its next message with an error message, and echoes all others.
type refusing struct {
	echo
	code atomic.Uint32
}

func (r *refusing) ServeMSL(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
	if code := msl.Code(r.code.Swap(0)); code != 0 {
		return code
	}
	return r.echo.ServeMSL(ctx, w, m)
}

// TestErrorsBetweenProcesses: what send does after each response code that a server can give (§8.5). The server
// is this process, with an agent of its own.
func TestErrorsBetweenProcesses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg, err := loadConfig(w.path("server/serve.toml"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Agent.Binary = filepath.Join(binaries, "mslkeep-agent")
	if cfg.Agent.SHA256, err = sum(cfg.Agent.Binary); err != nil {
		t.Fatal(err)
	}
	keys, err := cfg.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	mslConfig, err := cfg.msl()
	if err == nil {
		mslConfig.Users, err = newUsers(cfg.Serve.Users)
	}
	if err != nil {
		t.Fatal(err)
	}
	handler := new(refusing)
	server, err := msl.NewServer(mslConfig, keys, handler)
	if err != nil {
		t.Fatal(err)
	}
	var posts atomic.Int32
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		server.ServeHTTP(rw, r)
	}))
	defer web.Close()
	p := w.sender("device-1", &process{url: web.URL}, "--non-replayable",
		"--user", "ada", "--email", "ada@example.com", "--password-file", w.path("password"))
	p.say("gets tokens")
	for _, row := range []struct {
		code  msl.Code
		posts int32
		keys  bool // new ones
		fails bool
	}{
		{msl.MessageFormatError, 1, false, true},         // FAIL
		{msl.InternalException, 1, false, true},          // TRANSIENT_FAILURE
		{msl.MasterTokenRejectedByApp, 3, true, false},   // ENTITY_REAUTH: a handshake first, for the message is non-replayable
		{msl.EntityRejectedByApp, 3, true, false},        // ENTITYDATA_REAUTH
		{msl.UserIDTokenRevoked, 2, false, false},        // USER_REAUTH
		{msl.UserIDTokenRejectedByApp, 1, false, true},   // USERDATA_REAUTH: there is no other password
		{msl.ResponseRequiresEncryption, 3, true, false}, // KEYX_REQUIRED
		{msl.MessageExpired, 2, false, false},            // EXPIRED
		{msl.MessageReplayed, 2, false, false},           // REPLAYED
	} {
		p.say("is well before")
		posts.Store(0)
		handler.code.Store(uint32(row.code))
		r := p.try("data")
		if got := posts.Load(); got != row.posts || (r.Error != "") != row.fails || r.KeyExchange != row.keys || !row.fails && !r.UserIDToken {
			t.Errorf("%v: %d posts, %+v", row.code.Response(), got, r)
		}
	}
}
