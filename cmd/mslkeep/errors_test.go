// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

// refusing answers its next message with an error message, and echoes all others.
type refusing struct {
	echo
	code atomic.Uint32
	id   atomic.Int64 // of the last message
}

func (r *refusing) ServeMSL(ctx context.Context, w *msl.ResponseWriter, m *msl.Message) error {
	r.id.Store(m.ID)
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
	var posts, raw atomic.Int32
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		code := raw.Swap(0)
		if code == 0 {
			server.ServeHTTP(rw, r)
			return
		}
		server.ServeHTTP(httptest.NewRecorder(), r)
		message, err := rawError(r.Context(), keys, mslConfig.Entity, handler.id.Load()+1, code)
		if err != nil {
			t.Error(err)
		}
		_, _ = rw.Write(message)
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
	for _, code := range []int32{10, 99} { // SSOTOKEN_REJECTED, which no error in §9 has, is as USERDATA_REAUTH; unknown ones are FAIL
		p.say("is well before")
		posts.Store(0)
		raw.Store(code)
		if r := p.try("data"); posts.Load() != 1 || r.Error == "" {
			t.Errorf("response code %d: %d posts, %+v", code, posts.Load(), r)
		}
	}
	if r := p.say("gets a new token"); !r.UserIDToken {
		t.Errorf("after the user ID token was cleared: %+v", r)
	}
}

// rawError makes an error message with any response code (§4.12), signed by an entity with an RSA key.
func rawError(ctx context.Context, keys *agent.Client, e msl.EntityAuthData, id int64, code int32) ([]byte, error) {
	own, err := keys.EntityContext(ctx, e.Scheme, e.Identity(), e.KeyID())
	if err != nil {
		return nil, err
	}
	parts, err := own.Seal(ctx, [][]byte{fmt.Appendf(nil, `{"messageid":%d,"errorcode":%d}`, id, code)})
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"entityauthdata": json.RawMessage(e.Encoding()), "errordata": parts[0].Data, "signature": parts[0].Signature})
}
