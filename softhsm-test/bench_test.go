// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/internal/custody"
	"github.com/mslkeep/mslkeep/internal/wire"
	"github.com/mslkeep/mslkeep/msl"
	"github.com/mslkeep/mslkeep/providers"
	"github.com/mslkeep/mslkeep/providers/software"
)

const (
	benchSessions = 8   // with the token, of each process
	benchCallers  = 256 // at once, as the connections of a busy server
	benchSlice    = 250 * time.Millisecond
)

// BenchmarkNewTokens opens master tokens that the agent has not seen, through custody and one or two processes of the
// provider, and with the same calls straight into SoftHSM, all in turn, so that a busy machine is as busy for each.
// The metrics are tokens in a second, and what the agent does of what SoftHSM does in one process.
func BenchmarkNewTokens(b *testing.B) {
	ballast := make([]byte, 20<<20) // as in the agent
	defer runtime.KeepAlive(ballast)
	h := newHSM(b)
	h.settings["sessions"] = benchSessions
	one, two := newOpener(b, h, 1), newOpener(b, h, 2)
	straight := newStraight(b, h, one.tokens[0])
	var times time.Duration
	var n [3]int64
	var spent [3]time.Duration
	pids := append(one.pids, two.pids...)
	for b.Loop() {
		for i, run := range []func(time.Duration) int64{straight.run, one.run, two.run} {
			before := cpu(b, pids)
			n[i] += run(benchSlice)
			spent[i] += cpu(b, pids) - before
		}
		times += benchSlice
	}
	rate := func(i int) float64 { return float64(n[i]) / times.Seconds() }
	for i, name := range []string{"straight", "agent", "agent-2"} {
		b.ReportMetric(float64(spent[i].Microseconds())/float64(n[i]), name+"-cpu-µs")
	}
	b.ReportMetric(rate(0), "straight/s")
	b.ReportMetric(rate(1), "agent/s")
	b.ReportMetric(rate(2), "agent-2/s")
	b.ReportMetric(100*rate(1)/rate(0), "%agent")
	b.ReportMetric(100*rate(2)/rate(0), "%agent-2")
}

// cpu returns the CPU time that this process and those have used.
func cpu(b *testing.B, pids []int) time.Duration {
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		b.Fatal(err)
	}
	total := time.Duration(self.Utime.Nano() + self.Stime.Nano())
	for _, pid := range pids {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil || len(tasks) == 0 {
			b.Fatal("no tasks", err)
		}
		for _, task := range tasks {
			if stat, err := os.ReadFile(task); err == nil { // else it has ended
				var ran int64
				fmt.Sscan(string(stat), &ran)
				total += time.Duration(ran)
			}
		}
	}
	return total
}

// for callers calls do again and again, several at once, and returns how often it did.
func during(d time.Duration, callers int, do func(caller int) error, failed func(...any)) int64 {
	var n atomic.Int64
	var all sync.WaitGroup
	end := time.Now().Add(d)
	for i := range callers {
		all.Go(func() {
			for time.Now().Before(end) {
				if err := do(i); err != nil {
					failed(err)
					return
				}
				n.Add(1)
			}
		})
	}
	all.Wait()
	return n.Load()
}

// An opener is an agent whose token keys are in SoftHSM.
type opener struct {
	b      *testing.B
	peer   *custody.Peer
	tokens []wire.Token // one for each caller
	pids   []int
}

func newOpener(b *testing.B, h *hsm, processes int) *opener {
	ctx, path := b.Context(), providerPath(b)
	settings, err := json.Marshal(h.settings)
	if err != nil {
		b.Fatal(err)
	}
	c, err := providers.Connect(ctx, providers.Config{Path: path, SHA256: sum(b, path), Env: h.env, Settings: settings, Processes: processes})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	dir := b.TempDir()
	unlock := software.Unlock{KeySource: "file:" + filepath.Join(dir, "unlock")}
	if err := software.NewUnlockKey(filepath.Join(dir, "unlock")); err != nil {
		b.Fatal(err)
	}
	file, err := software.Create(filepath.Join(dir, "keys"), unlock, software.Options{})
	if err != nil {
		b.Fatal(err)
	}
	joined := &providers.Joined{Main: file, Named: map[string]providers.Provider{"hsm": c.Provider()}}
	a, err := custody.New(ctx, custody.Config{Provider: joined, Manage: true})
	if err != nil {
		b.Fatal(err)
	}
	peer := a.NewPeer()
	defer peer.Close()
	if _, err := peer.Handle(ctx, &wire.GenerateKeyRequest{Name: "hsm:token-keys", Type: "keyset"}); err != nil && processes == 1 {
		b.Fatal(err)
	}
	if a, err = custody.New(ctx, custody.Config{Provider: joined, TokenKeys: "hsm:token-keys"}); err != nil {
		b.Fatal(err)
	}
	o := &opener{b: b, peer: a.NewPeer(), pids: c.PIDs()}
	b.Cleanup(o.peer.Close)
	begun := ask[*wire.BeginExchangeReply](b, o.peer, &wire.BeginExchangeRequest{Scheme: "ASYMMETRIC_WRAPPED", Mechanism: "JWE_RSA", Identity: "bench"})
	hour := time.Now().Add(time.Hour).Unix()
	for range benchCallers {
		issued := ask[*wire.IssueReply](b, o.peer, &wire.IssueRequest{Scheme: "ASYMMETRIC_WRAPPED", KeyData: begun.KeyData, Identity: "bench", RenewalWindow: hour, Expiration: hour})
		ask[*wire.ReleaseReply](b, o.peer, &wire.ReleaseRequest{Handles: []wire.Handle{issued.Session}})
		o.tokens = append(o.tokens, issued.Token)
	}
	return o
}

func providerPath(b testing.TB) string {
	path, err := provider()
	if err != nil {
		b.Fatal(err)
	}
	return path
}

func ask[R wire.Reply](b *testing.B, p *custody.Peer, r wire.Request) (reply R) {
	b.Helper()
	got, err := p.Handle(b.Context(), r)
	if err != nil {
		b.Fatal(err)
	}
	return got.(R)
}

// run opens each caller's token, forgets it, and opens it again.
func (o *opener) run(d time.Duration) int64 {
	ctx := context.Background()
	return during(d, benchCallers, func(i int) error {
		got, err := o.peer.Handle(ctx, &wire.OpenMasterTokenRequest{Token: o.tokens[i]})
		if err != nil {
			return err
		}
		reply := got.(*wire.OpenMasterTokenReply)
		if !reply.Verified {
			return wire.VerificationFailed
		}
		_, err = o.peer.Handle(ctx, &wire.ReleaseRequest{Handles: []wire.Handle{reply.Session}})
		return err
	}, o.b.Error)
}

// A straight verifies and decrypts a token with SoftHSM in this process.
type straight struct {
	b          *testing.B
	module     *p11.Ctx
	sessions   []p11.SessionHandle
	mac, enc   p11.ObjectHandle
	data, sig  []byte
	iv, cipher []byte
}

func newStraight(b *testing.B, h *hsm, token wire.Token) *straight {
	b.Setenv("SOFTHSM2_CONF", strings.TrimPrefix(h.env[0], "SOFTHSM2_CONF="))
	s := &straight{b: b, module: p11.New(h.settings["module"].(string)), data: token.Data, sig: token.Signature}
	try := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	try(s.module.Initialize())
	b.Cleanup(func() { s.module.Finalize() })
	slots, err := s.module.GetSlotList(true)
	try(err)
	for range benchSessions {
		session, err := s.module.OpenSession(slots[0], p11.CKF_SERIAL_SESSION)
		try(err)
		s.sessions = append(s.sessions, session)
	}
	try(s.module.Login(s.sessions[0], p11.CKU_USER, testPIN))
	find := func(label string) p11.ObjectHandle {
		try(s.module.FindObjectsInit(s.sessions[0], []*p11.Attribute{p11.NewAttribute(p11.CKA_LABEL, label)}))
		found, _, err := s.module.FindObjects(s.sessions[0], 1)
		try(err)
		try(s.module.FindObjectsFinal(s.sessions[0]))
		return found[0]
	}
	s.mac, s.enc = find("token-keys.mac"), find("token-keys.enc")
	var claims struct{ SessionData []byte }
	try(json.Unmarshal(token.Data, &claims))
	var envelope struct{ IV, Ciphertext []byte }
	try(json.Unmarshal(claims.SessionData, &envelope))
	s.iv, s.cipher = envelope.IV, envelope.Ciphertext
	return s
}

func (s *straight) run(d time.Duration) int64 {
	hmac := []*p11.Mechanism{p11.NewMechanism(p11.CKM_SHA256_HMAC, nil)}
	cbc := []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_CBC_PAD, s.iv)}
	return during(d, benchSessions, func(i int) error {
		session := s.sessions[i]
		err := s.module.VerifyInit(session, hmac, s.mac)
		if err == nil {
			err = s.module.Verify(session, s.data, s.sig)
		}
		if err == nil {
			err = s.module.DecryptInit(session, cbc, s.enc)
		}
		if err == nil {
			_, err = s.module.Decrypt(session, s.cipher)
		}
		return err
	}, s.b.Error)
}

// BenchmarkEcho sends messages of 1 KiB to a server and back, on warm sessions, with the token keys in SoftHSM and in the
// agent's file, in turn.
func BenchmarkEcho(b *testing.B) {
	var clients [2][]*msl.Client
	for i, name := range []string{"hsm", "file"} {
		s := newSystem(b, 5*time.Second, "")
		if name == "file" {
			write(b, s.path("server/agent.toml"), fileKeys+"token-keys = \"token-keys\"\nstorage-key = \"storage\"\n")
		}
		s.makeKeys()
		s.serve()
		f := s.newFleet()
		for range 16 {
			clients[i] = append(clients[i], f.client(b))
		}
	}
	data := make([]byte, 1<<10)
	var n [2]int64
	var times time.Duration
	slice := func(i int, d time.Duration) int64 {
		return during(d, len(clients[i]), func(c int) error { return say(b.Context(), clients[i][c], data) }, b.Error)
	}
	for i := range clients {
		slice(i, benchSlice)
	}
	for b.Loop() {
		for i := range clients {
			n[i] += slice(i, benchSlice)
		}
		times += benchSlice
	}
	b.ReportMetric(float64(n[0])/times.Seconds(), "hsm/s")
	b.ReportMetric(float64(n[1])/times.Seconds(), "file/s")
	b.ReportMetric(100*float64(n[0])/float64(n[1]), "%hsm")
}
