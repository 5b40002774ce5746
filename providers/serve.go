// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mslkeep/mslkeep/plugin"
	"github.com/mslkeep/mslkeep/providers/internal/pb"
)

const (
	maxSettings = 1 << 20 // bytes of a provider's configuration
	maxCalls    = 256     // at once
	// streamWorkers is how many of them are served by goroutines that live on, with stacks that have grown.
	streamWorkers = 4
	// gcPercent is for a heap as small as a provider's, which would be collected all the time.
	gcPercent = 400
)

// errAbsent answers a call that Describe has not advertised.
var errAbsent = &Error{Code: NotSupported, Op: "managing keys"}

// ReadSettings reads the provider's section of the agent's configuration into v, as encoding/json does. A
// member that v has no field for is an error. Secrets are not in there, only references to them. A
// provider calls it before it opens its device; before that, [plugin.Harden].
func ReadSettings(v any) error {
	if !plugin.IsChild() {
		return plugin.ErrNoParent
	}
	f := os.NewFile(plugin.FirstExtraFD, "settings")
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxSettings+1)) // the offset is shared with other launches
	f.Close()
	if err != nil {
		return fmt.Errorf("reading the settings: %w", err)
	}
	return decodeSettings(b, v)
}

func decodeSettings(b []byte, v any) error {
	if len(b) > maxSettings {
		return Because(CauseSettings, errors.New("reading the settings: too long"))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return Because(CauseSettings, fmt.Errorf("reading the settings: %w", err))
	}
	return nil
}

// Serve lets the agent that started this process use p, until the agent is gone. It is the last thing in
// a provider's main. It closes p if that is an [io.Closer].
//
//	func main() {
//		plugin.Harden(false)
//		if err := run(); err != nil {
//			fmt.Fprintln(os.Stderr, "my provider:", err)
//			os.Exit(providers.ExitCode(err))
//		}
//	}
//
//	func run() error {
//		var settings struct{ Device string }
//		if err := providers.ReadSettings(&settings); err != nil {
//			return err
//		}
//		p, err := open(settings.Device)
//		if err != nil {
//			return err
//		}
//		return providers.Serve(p)
//	}
func Serve(p Provider) error {
	s := &server{p: p}
	if c, ok := p.(io.Closer); ok {
		defer c.Close()
	}
	defer s.ending.Store(true)
	debug.SetGCPercent(gcPercent)
	child, err := plugin.ServeGRPC(Protocol, func(g *grpc.Server) { pb.RegisterProviderServer(g, s) },
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxCalls), grpc.NumStreamWorkers(streamWorkers),
		grpc.ChainUnaryInterceptor(guard))
	if err != nil {
		return err
	}
	ctx, stop := child.Context(context.Background())
	defer stop()
	defer context.AfterFunc(ctx, func() { child.Conn.Close() })()
	_, _ = io.Copy(io.Discard, child.Conn) // until the agent is gone, or wants an end
	return nil
}

// guard demands a deadline of every call of contract B, and survives a panic, whose value might be secret.
func guard(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
	s, ours := info.Server.(*server)
	if !ours {
		return next(ctx, req)
	}
	if _, ok := ctx.Deadline(); !ok {
		return nil, status.Error(codes.InvalidArgument, "a call without a deadline")
	}
	defer func() {
		if recover() != nil {
			reply, err = nil, status.Error(codes.Internal, "panic")
		}
	}()
	reply, err = next(ctx, req)
	if s.ending.Load() { // then a failure may be of a provider that was closed
		return nil, status.Error(codes.Unavailable, "ending")
	}
	return reply, err
}

// A server is the provider's end of the pipe.
type server struct {
	pb.UnimplementedProviderServer
	p      Provider
	ending atomic.Bool // before p is closed
}

func (s *server) Describe(ctx context.Context, _ *pb.DescribeRequest) (*pb.DescribeReply, error) {
	d := Description{Name: filepath.Base(os.Args[0])}
	if info, ok := debug.ReadBuildInfo(); ok {
		d.Version = info.Main.Version
	}
	if describer, ok := s.p.(Describer); ok {
		var err error
		if d, err = describer.Describe(ctx); err != nil {
			return &pb.DescribeReply{Failure: toFailure(err)}, nil
		}
	}
	out := &pb.DescribeReply{Name: d.Name, Version: d.Version, MaxData: int64(d.MaxData),
		GenerateTypes: texts(d.Generates), ImportTypes: texts(d.Imports), Warnings: d.Warnings, Facts: d.Facts}
	_, out.Random = s.p.(Randomer)
	out.Many = true
	_, out.Generates = s.p.(Generator)
	_, out.Imports = s.p.(Importer)
	_, out.Rotates = s.p.(Rotator)
	_, out.Destroys = s.p.(Destroyer)
	return out, nil
}

func (s *server) Health(ctx context.Context, _ *pb.HealthRequest) (*pb.HealthReply, error) {
	return &pb.HealthReply{Failure: toFailure(Check(ctx, s.p))}, nil
}

func (s *server) Keys(ctx context.Context, _ *pb.KeysRequest) (*pb.KeysReply, error) {
	infos, err := s.p.Keys(ctx)
	out := &pb.KeysReply{Failure: toFailure(err)}
	for _, i := range infos {
		out.Keys = append(out.Keys, &pb.Key{Name: i.Name, Version: i.Version, Type: string(i.Type), Created: i.Created})
	}
	return out, nil
}

func (s *server) Open(ctx context.Context, r *pb.OpenRequest) (*pb.KeyReply, error) {
	k, err := s.p.Open(ctx, r.GetName(), r.GetVersion())
	if err != nil {
		return &pb.KeyReply{Failure: toFailure(err)}, nil
	}
	out := toKey(k)
	if pair, ok := k.(PublicKeyer); ok { // which spares whoever opens a pair a round trip
		out.PublicKey, _ = pair.PublicKey(ctx) // if it fails, it does so again when it is asked for
	}
	return &pb.KeyReply{Key: out}, nil
}

func (s *server) PublicKey(ctx context.Context, r *pb.PublicKeyRequest) (*pb.PublicKeyReply, error) {
	results := doEach(ctx, s.p, []Operation{{Key: r.GetName(), Version: r.GetVersion(), Op: OpPublicKey}}, true)
	return &pb.PublicKeyReply{Spki: results[0].Output, Failure: toFailure(results[0].Err)}, nil
}

func (s *server) Do(ctx context.Context, r *pb.DoRequest) (*pb.DoReply, error) {
	b, err := fromBatch(r)
	if err != nil {
		return nil, err
	}
	return toReply(Do(ctx, s.p, b.Ops, b.Stop)), nil
}

func fromBatch(r *pb.DoRequest) (Batch, error) {
	if len(r.GetSteps()) > MaxBatch {
		return Batch{}, status.Error(codes.InvalidArgument, "too many operations")
	}
	b := Batch{Ops: make([]Operation, len(r.GetSteps())), Stop: r.GetStop()}
	for i, step := range r.GetSteps() {
		b.Ops[i] = fromStep(step)
	}
	return b, nil
}

func toReply(results []Result) *pb.DoReply {
	out := &pb.DoReply{Results: make([]*pb.StepResult, len(results))}
	for i, r := range results {
		out.Results[i] = &pb.StepResult{Output: r.Output, Failure: toFailure(r.Err)}
	}
	return out
}

// DoMany does batches at once, as the calls would that they came in.
func (s *server) DoMany(ctx context.Context, r *pb.DoManyRequest) (*pb.DoManyReply, error) {
	if len(r.GetBatches()) > MaxBatch {
		return nil, status.Error(codes.InvalidArgument, "too many batches")
	}
	batches := make([]Batch, len(r.GetBatches()))
	for i, batch := range r.GetBatches() {
		var err error
		if batches[i], err = fromBatch(batch); err != nil {
			return nil, err
		}
	}
	out := &pb.DoManyReply{Batches: make([]*pb.DoReply, len(batches))}
	if many, ok := s.p.(ManyBatcher); ok {
		for i, results := range many.DoMany(ctx, batches) {
			out.Batches[i] = toReply(results)
		}
		return out, nil
	}
	var all sync.WaitGroup
	for i, batch := range batches {
		all.Go(func() {
			defer func() {
				if recover() != nil { // whose value might be secret
					out.Batches[i] = allFailed(r.Batches[i])
				}
			}()
			out.Batches[i] = toReply(Do(ctx, s.p, batch.Ops, batch.Stop))
		})
	}
	all.Wait()
	return out, nil
}

// allFailed is the reply to a batch that takes the others no further than itself.
func allFailed(batch *pb.DoRequest) *pb.DoReply {
	out := new(pb.DoReply)
	for range batch.GetSteps() {
		out.Results = append(out.Results, &pb.StepResult{Failure: &pb.Failure{Code: pb.Code_DEVICE, Op: opUse}})
		if batch.GetStop() {
			break
		}
	}
	return out
}

// made is the reply of a call that makes a key.
func made(i KeyInfo, err error) (*pb.KeyReply, error) {
	if err != nil {
		return &pb.KeyReply{Failure: toFailure(err)}, nil
	}
	return &pb.KeyReply{Key: &pb.Key{Name: i.Name, Version: i.Version, Type: string(i.Type), Created: i.Created}}, nil
}

func (s *server) Generate(ctx context.Context, r *pb.GenerateRequest) (*pb.KeyReply, error) {
	if g, ok := s.p.(Generator); ok {
		return made(g.Generate(ctx, r.GetName(), KeyType(r.GetType())))
	}
	return made(KeyInfo{}, errAbsent)
}

func (s *server) Import(ctx context.Context, r *pb.ImportRequest) (*pb.KeyReply, error) {
	defer clear(r.GetKey())
	if i, ok := s.p.(Importer); ok {
		return made(i.Import(ctx, r.GetName(), KeyType(r.GetType()), r.GetKey()))
	}
	return made(KeyInfo{}, errAbsent)
}

func (s *server) Rotate(ctx context.Context, r *pb.RotateRequest) (*pb.KeyReply, error) {
	if rotator, ok := s.p.(Rotator); ok {
		return made(rotator.Rotate(ctx, r.GetName()))
	}
	return made(KeyInfo{}, errAbsent)
}

func (s *server) Destroy(ctx context.Context, r *pb.DestroyRequest) (*pb.DestroyReply, error) {
	d, ok := s.p.(Destroyer)
	if !ok {
		return &pb.DestroyReply{Failure: toFailure(errAbsent)}, nil
	}
	return &pb.DestroyReply{Failure: toFailure(d.Destroy(ctx, r.GetName(), r.GetVersion()))}, nil
}
