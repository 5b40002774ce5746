// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc"

	"github.com/mslkeep/mslkeep/providers/internal/pb"
)

// A remote is a provider at the other end of the pipe.
type remote struct{ c *Connection }

const opUse = "using a key"

var (
	errAnswer = errors.New("the provider's answer makes no sense")
	errOne    = errors.New("the provider did not answer for each operation")
)

// Describe asks the provider what it is, and how.
func (r *remote) Describe(ctx context.Context) (Description, error) {
	reply, err := r.c.describe(ctx)
	if err != nil {
		return r.c.description, err // as it was at its first start
	}
	return describedBy(reply), nil
}

// Health has each process of the provider do a real operation with every key, or what it has instead.
func (r *remote) Health(ctx context.Context) error { return r.c.health(ctx) }

// Keys lists the provider's keys.
func (r *remote) Keys(ctx context.Context) ([]KeyInfo, error) {
	const op = "listing keys"
	var reply *pb.KeysReply
	err := r.c.call(ctx, op, quick, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (f *pb.Failure, err error) {
		reply, err = p.Keys(ctx, &pb.KeysRequest{}, o...)
		return reply.GetFailure(), err
	})
	if err != nil {
		return nil, err
	}
	infos := make([]KeyInfo, 0, len(reply.Keys))
	for _, k := range reply.Keys {
		infos = append(infos, fromInfo(k))
	}
	return infos, nil
}

// Open asks what a key can do. The key that it returns has those capabilities.
func (r *remote) Open(ctx context.Context, name string, version uint32) (Key, error) {
	const op = "opening a key"
	if len(name) > maxName {
		return nil, &Error{Code: NoSuchKey, Op: op}
	}
	var reply *pb.KeyReply
	err := r.c.call(ctx, op, quick, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (f *pb.Failure, err error) {
		reply, err = p.Open(ctx, &pb.OpenRequest{Name: name, Version: version}, o...)
		return reply.GetFailure(), err
	})
	if err != nil {
		return nil, err
	}
	info := fromInfo(reply.GetKey())
	if info.Name != name || info.Version == 0 || version != 0 && info.Version != version {
		return nil, &Error{Code: Device, Op: op, Err: errAnswer}
	}
	k := &remoteKey{c: r.c, info: info, mechanisms: named[Mechanism](reply.Key.Mechanisms), public: reply.Key.PublicKey}
	key, ok := withCapabilities(k, operations(reply.Key.Operations))
	if !ok {
		return nil, &Error{Code: Device, Op: op, Err: errAnswer}
	}
	return key, nil
}

// operations makes a set. What this version does not know is left out.
func operations(advertised []pb.Operation) (set uint16) {
	for _, o := range advertised {
		if o >= pb.Operation_ENCRYPT && o <= pb.Operation_PUBLIC_KEY {
			set |= 1 << o
		}
	}
	return set
}

// Do does a batch in one round trip.
func (r *remote) Do(ctx context.Context, ops []Operation, stop bool) []Result {
	results, err := r.c.do(ctx, ops, stop)
	if err == nil {
		return results
	}
	if stop {
		return []Result{{Err: err}}[:min(1, len(ops))]
	}
	return slices.Repeat([]Result{{Err: err}}, len(ops))
}

// do returns an error if no operation may have been done.
func (c *Connection) do(ctx context.Context, ops []Operation, stop bool) ([]Result, error) {
	if len(ops) == 0 {
		return nil, nil
	}
	size := 0
	req := &pb.DoRequest{Stop: stop}
	for i := range ops {
		size += ops[i].size()
		if size > MaxData || len(ops[i].Key) > maxName || len(ops) > MaxBatch {
			return nil, &Error{Code: Malformed, Op: opUse, Err: errTooLarge}
		}
		req.Steps = append(req.Steps, toStep(&ops[i]))
	}
	reply, err := c.best().do(ctx, req)
	if reply == nil {
		return nil, err
	}
	var results []Result
	for _, r := range reply.Results {
		results = append(results, Result{r.Output, fromFailure(r.Failure, opUse)})
	}
	switch n := len(results); {
	case n > 0 && n == len(ops):
		return results, nil
	case n > 0 && n < len(ops) && stop && results[n-1].Err != nil:
		return results, nil
	}
	return nil, &Error{Code: Device, Op: opUse, Err: errOne}
}

// change does what makes a key.
func (r *remote) change(ctx context.Context, op, name string, t KeyType, do func(context.Context, pb.ProviderClient, ...grpc.CallOption) (*pb.KeyReply, error)) (KeyInfo, error) {
	if len(name) > maxName {
		return KeyInfo{}, &Error{Code: Malformed, Op: op, Err: errTooLarge}
	}
	var reply *pb.KeyReply
	err := r.c.change(ctx, op, name, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (f *pb.Failure, err error) {
		reply, err = do(ctx, p, o...)
		return reply.GetFailure(), err
	})
	if err != nil {
		return KeyInfo{}, err
	}
	info := fromInfo(reply.GetKey())
	if info.Name != name || info.Version == 0 || t != "" && info.Type != t {
		return KeyInfo{}, &Error{Code: Device, Op: op, Err: errAnswer}
	}
	return info, nil
}

func (g generates) Generate(ctx context.Context, name string, t KeyType) (KeyInfo, error) {
	return g.change(ctx, "generating a key", name, t, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (*pb.KeyReply, error) {
		return p.Generate(ctx, &pb.GenerateRequest{Name: name, Type: string(t)}, o...)
	})
}

func (i imports) Import(ctx context.Context, name string, t KeyType, key []byte) (KeyInfo, error) {
	const op = "importing a key"
	if len(key) > MaxData {
		return KeyInfo{}, &Error{Code: Malformed, Op: op, Err: errTooLarge}
	}
	return i.change(ctx, op, name, t, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (*pb.KeyReply, error) {
		return p.Import(ctx, &pb.ImportRequest{Name: name, Type: string(t), Key: key}, o...)
	})
}

func (r rotates) Rotate(ctx context.Context, name string) (KeyInfo, error) {
	return r.change(ctx, "rotating a key", name, "", func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (*pb.KeyReply, error) {
		return p.Rotate(ctx, &pb.RotateRequest{Name: name}, o...)
	})
}

func (d destroys) Destroy(ctx context.Context, name string, version uint32) error {
	const op = "destroying a key"
	if len(name) > maxName {
		return &Error{Code: NoSuchKey, Op: op}
	}
	return d.c.change(ctx, op, name, func(ctx context.Context, p pb.ProviderClient, o ...grpc.CallOption) (*pb.Failure, error) {
		reply, err := p.Destroy(ctx, &pb.DestroyRequest{Name: name, Version: version}, o...)
		return reply.GetFailure(), err
	})
}
