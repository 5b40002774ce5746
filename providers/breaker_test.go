// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mslkeep/mslkeep/providers/internal/pb"
)

func TestBreakerStates(t *testing.T) {
	now := time.Unix(0, 0)
	b := breaker{now: func() time.Time { return now }}
	call := func(o outcome) bool {
		if !b.enter() {
			return false
		}
		b.leave(o)
		return true
	}
	for range faultsToOpen - 1 {
		call(faulty)
	}
	call(worked) // which starts the count anew
	for range faultsToOpen {
		if !call(faulty) {
			t.Fatal("open too soon")
		}
	}
	pause := firstPause
	for range 8 {
		if call(worked) {
			t.Fatal("closed while it should be open")
		}
		now = now.Add(pause)
		if !b.enter() {
			t.Fatalf("no probe after %v", pause)
		}
		if b.enter() {
			t.Fatal("two probes at once")
		}
		b.leave(unknown) // the prober gave up: the next call is the probe
		if !call(faulty) {
			t.Fatal("no second probe")
		}
		pause = min(2*pause, longestPause)
	}
	now = now.Add(pause)
	for range 2 {
		if !call(worked) {
			t.Error("not closed after a good probe")
		}
	}
}

func TestStatus(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx   context.Context
		code  codes.Code
		want  Code
		fault bool
	}{
		{ended, codes.Internal, Transient, false}, {t.Context(), codes.Unavailable, Transient, true},
		{t.Context(), codes.DeadlineExceeded, Transient, true}, {t.Context(), codes.Canceled, Transient, true},
		{t.Context(), codes.ResourceExhausted, Malformed, false}, {t.Context(), codes.Unimplemented, NotSupported, false},
		{t.Context(), codes.Internal, Device, true}, {t.Context(), codes.PermissionDenied, Device, true},
	} {
		err, fault := fromStatus(c.ctx, "x", status.Error(c.code, "secret"))
		if CodeOf(err) != c.want || fault != c.fault || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v became %v, %v", c.code, err, fault)
		}
	}
}

// FuzzReply: whatever a provider answers, the agent's end neither panics nor grows a method that no type of
// key has.
func FuzzReply(f *testing.F) {
	for _, m := range []proto.Message{
		&pb.KeyReply{Key: toKeyOf(AES128, pb.Operation_ENCRYPT, pb.Operation_DECRYPT)},
		&pb.KeyReply{Key: toKeyOf(ECP256, pb.Operation_SIGN, pb.Operation_MAC)},
		&pb.KeyReply{Failure: &pb.Failure{Code: 99, Op: "a\nb", Detail: strings.Repeat("é", 400)}},
		&pb.KeyReply{Failure: &pb.Failure{Code: pb.Code_VERIFICATION_FAILED, Detail: "padding"}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		reply := new(pb.KeyReply)
		if proto.Unmarshal(b, reply) != nil {
			return
		}
		if err := fromFailure(reply.Failure, "x"); err != nil {
			e := err.(*Error)
			if e.Code < NoSuchKey || e.Code > Corrupt || len(e.Op) > maxText || !utf8.ValidString(e.Error()) || strings.ContainsAny(e.Error(), "\r\n") ||
				e.Code == VerificationFailed && e.Err != nil {
				t.Errorf("%q", e)
			}
		}
		set := operations(reply.GetKey().GetOperations())
		k, ok := withCapabilities(&remoteKey{info: fromInfo(reply.Key)}, set)
		for op := OpEncrypt; ok && op <= OpPublicKey; op++ {
			if Can(k, op) != (set&(1<<op) != 0) {
				t.Errorf("a key of set %b: operation %d", set, op)
			}
		}
	})
}

func toKeyOf(kt KeyType, ops ...pb.Operation) *pb.Key {
	return &pb.Key{Name: "k", Version: 1, Type: string(kt), Operations: ops}
}

// TestSets: each set of capabilities gives a key that has these and no others.
func TestSets(t *testing.T) {
	taken := 0
	for set := range uint16(1 << (OpPublicKey + 1)) {
		k, ok := withCapabilities(new(remoteKey), set)
		if !ok {
			continue
		}
		taken++
		for op := OpEncrypt; op <= OpPublicKey; op++ {
			if Can(k, op) != (set&(1<<op) != 0) {
				t.Errorf("set %b: operation %d", set, op)
			}
		}
	}
	if taken != 1+15+3+7+4 {
		t.Errorf("%d sets", taken)
	}
	for i := range 16 {
		a := abilities{i&1 != 0, i&2 != 0, i&4 != 0, i&8 != 0}
		p := withAbilities(new(remote), a)
		var got abilities
		_, got.generates = p.(Generator)
		_, got.imports = p.(Importer)
		_, got.rotates = p.(Rotator)
		_, got.destroys = p.(Destroyer)
		if got != a {
			t.Errorf("%+v became %+v", a, got)
		}
	}
}
