// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mslkeep/mslkeep/providers/internal/pb"
)

// Protocol is the version of contract B (provider.proto).
const Protocol = 1

// Limits of contract B.
const (
	// MaxData is how many bytes an operation takes through the pipe: input, iv, aad and MAC together.
	MaxData = 16 << 20
	// MaxBatch is how many operations a batch has.
	MaxBatch   = 64
	maxMessage = MaxData + 1<<20 // bytes of one call or reply
	maxText    = 512             // bytes of each text in a failure
	maxName    = 4096            // bytes of a key's name
)

var errTooLarge = errors.New("too long")

// toFailure makes the form of an error that travels. What is wrong with a peer's data is told without
// a cause.
func toFailure(err error) *pb.Failure {
	if err == nil {
		return nil
	}
	f := &pb.Failure{Code: pb.Code(CodeOf(err))}
	e, ok := errors.AsType[*Error](err)
	switch {
	case !ok && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		f.Code = pb.Code_TRANSIENT
	case !ok:
		f.Detail = clip(err.Error())
	case e.Code == VerificationFailed:
		f.Op = clip(e.Op)
	default:
		f.Op = clip(e.Op)
		if e.Err != nil {
			f.Detail = clip(e.Err.Error())
		}
	}
	return f
}

// clip makes text fit for a message: valid UTF-8, one line, not long.
func clip(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) <= maxText {
		return s
	}
	s = s[:maxText]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}

// fromFailure undoes toFailure. A code that is not known is Device.
func fromFailure(f *pb.Failure, op string) error {
	if f == nil {
		return nil
	}
	e := &Error{Code: Device, Op: op}
	if f.Code >= pb.Code_NO_SUCH_KEY && f.Code <= pb.Code_CORRUPT {
		e.Code = Code(f.Code)
	}
	if f.Op != "" {
		e.Op = clip(f.Op)
	}
	if f.Detail != "" && e.Code != VerificationFailed {
		e.Err = errors.New(clip(f.Detail))
	}
	return e
}

// fromStatus makes an error of what gRPC says when the pipe fails. fault says whether the provider is to
// blame, rather than the caller.
func fromStatus(ctx context.Context, op string, err error) (_ error, fault bool) {
	if e := ctx.Err(); e != nil {
		return &Error{Code: Transient, Op: op, Err: e}, false
	}
	switch status.Code(err) {
	case codes.Unimplemented:
		return &Error{Code: NotSupported, Op: op, Err: errors.New("the provider knows no such call")}, false
	case codes.ResourceExhausted:
		return &Error{Code: Malformed, Op: op, Err: errTooLarge}, false
	case codes.DeadlineExceeded:
		return &Error{Code: Transient, Op: op, Err: errors.New("the provider did not answer in time")}, true
	case codes.Unavailable, codes.Canceled:
		return &Error{Code: Transient, Op: op, Err: errors.New("the provider has ended")}, true
	}
	return &Error{Code: Device, Op: op, Err: errors.New("the provider failed: " + status.Code(err).String())}, true
}

func toKey(k Key) *pb.Key {
	i := k.Info()
	out := &pb.Key{Name: i.Name, Version: i.Version, Type: string(i.Type), Created: i.Created}
	for op := OpEncrypt; op <= OpPublicKey; op++ {
		if Can(k, op) {
			out.Operations = append(out.Operations, pb.Operation(op))
		}
	}
	for _, m := range MechanismsOf(k) {
		out.Mechanisms = append(out.Mechanisms, string(m))
	}
	return out
}

func fromInfo(k *pb.Key) KeyInfo {
	return KeyInfo{Name: k.GetName(), Version: k.GetVersion(), Type: KeyType(k.GetType()), Created: k.GetCreated()}
}

func toStep(o *Operation) *pb.Step {
	return &pb.Step{Key: o.Key, Version: o.Version, Operation: pb.Operation(o.Op), Mechanism: string(o.Mechanism),
		Iv: o.IV, Input: o.Input, Aad: o.AAD, Mac: o.MAC, Length: uint32(min(max(o.Length, 0), MaxRandom+1))}
}

func fromStep(s *pb.Step) Operation {
	o := Operation{Key: s.GetKey(), Version: s.GetVersion(), Mechanism: Mechanism(s.GetMechanism()),
		IV: s.GetIv(), Input: s.GetInput(), AAD: s.GetAad(), MAC: s.GetMac(), Length: int(min(s.GetLength(), MaxRandom+1))}
	if op := s.GetOperation(); op >= pb.Operation_ENCRYPT && op <= pb.Operation_COUNT_UP {
		o.Op = Op(op)
	}
	return o
}

// size is how many bytes of data an operation has.
func (o *Operation) size() int { return len(o.IV) + len(o.Input) + len(o.AAD) + len(o.MAC) }

// A named kind of text, such as KeyType.
func texts[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}

func named[T ~string](in []string) []T {
	out := make([]T, len(in))
	for i, s := range in {
		out[i] = T(s)
	}
	return out
}
