// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

// A Request asks for an operation. The requests are the XxxRequest types of this package.
type Request interface {
	message
	answer() uint8 // code of the reply
}

// A Reply answers a Request. The replies are the XxxReply types of this package.
type Reply interface {
	message
	reply()
}

// Codes of requests. A new one goes to the end.
const (
	helloRequest uint8 = iota + 1
	openMasterTokenRequest
	sealRequest
	openRequest
	entityContextRequest
	issueRequest
	openUserIDTokenRequest
	issueUserIDTokenRequest
	openServiceTokenRequest
	sealServiceTokenRequest
	beginExchangeRequest
	finishExchangeRequest
	sealSessionRequest
	unsealSessionRequest
	releaseRequest
	healthRequest
	keysRequest
	generateKeyRequest
	importKeyRequest
	rotateKeyRequest
	publicKeyRequest
	openImportRequest
	readImportRequest
	rewrapRequest
)

// Codes of replies, and of frames that are neither request nor reply.
const (
	helloReply uint8 = iota + 0x81
	openMasterTokenReply
	sealReply
	openReply
	entityContextReply
	issueReply
	openUserIDTokenReply
	issueUserIDTokenReply
	openServiceTokenReply
	sealServiceTokenReply
	beginExchangeReply
	finishExchangeReply
	sealSessionReply
	unsealSessionReply
	releaseReply
	healthReply
	keysReply
	changedKeysReply
	publicKeyReply
	openImportReply
	readImportReply
	rewrapReply
	errorReply uint8 = 0xfe // the request failed
	cancelCode uint8 = 0xff // the request of that id is wanted no more
)

// requests makes an empty request by code.
var requests = [...]func() Request{
	helloRequest:            func() Request { return new(HelloRequest) },
	openMasterTokenRequest:  func() Request { return new(OpenMasterTokenRequest) },
	sealRequest:             func() Request { return new(SealRequest) },
	openRequest:             func() Request { return new(OpenRequest) },
	entityContextRequest:    func() Request { return new(EntityContextRequest) },
	issueRequest:            func() Request { return new(IssueRequest) },
	openUserIDTokenRequest:  func() Request { return new(OpenUserIDTokenRequest) },
	issueUserIDTokenRequest: func() Request { return new(IssueUserIDTokenRequest) },
	openServiceTokenRequest: func() Request { return new(OpenServiceTokenRequest) },
	sealServiceTokenRequest: func() Request { return new(SealServiceTokenRequest) },
	beginExchangeRequest:    func() Request { return new(BeginExchangeRequest) },
	finishExchangeRequest:   func() Request { return new(FinishExchangeRequest) },
	sealSessionRequest:      func() Request { return new(SealSessionRequest) },
	unsealSessionRequest:    func() Request { return new(UnsealSessionRequest) },
	releaseRequest:          func() Request { return new(ReleaseRequest) },
	healthRequest:           func() Request { return new(HealthRequest) },
	keysRequest:             func() Request { return new(KeysRequest) },
	generateKeyRequest:      func() Request { return new(GenerateKeyRequest) },
	importKeyRequest:        func() Request { return new(ImportKeyRequest) },
	rotateKeyRequest:        func() Request { return new(RotateKeyRequest) },
	publicKeyRequest:        func() Request { return new(PublicKeyRequest) },
	openImportRequest:       func() Request { return new(OpenImportRequest) },
	rewrapRequest:           func() Request { return new(RewrapRequest) },
	readImportRequest:       func() Request { return new(ReadImportRequest) },
}

// newRequest returns an empty request with that code, or nil.
func newRequest(code uint8) Request {
	if int(code) >= len(requests) || requests[code] == nil {
		return nil
	}
	return requests[code]()
}

func (*HelloRequest) code() uint8            { return helloRequest }
func (*OpenMasterTokenRequest) code() uint8  { return openMasterTokenRequest }
func (*SealRequest) code() uint8             { return sealRequest }
func (*OpenRequest) code() uint8             { return openRequest }
func (*EntityContextRequest) code() uint8    { return entityContextRequest }
func (*IssueRequest) code() uint8            { return issueRequest }
func (*OpenUserIDTokenRequest) code() uint8  { return openUserIDTokenRequest }
func (*IssueUserIDTokenRequest) code() uint8 { return issueUserIDTokenRequest }
func (*OpenServiceTokenRequest) code() uint8 { return openServiceTokenRequest }
func (*SealServiceTokenRequest) code() uint8 { return sealServiceTokenRequest }
func (*BeginExchangeRequest) code() uint8    { return beginExchangeRequest }
func (*FinishExchangeRequest) code() uint8   { return finishExchangeRequest }
func (*SealSessionRequest) code() uint8      { return sealSessionRequest }
func (*UnsealSessionRequest) code() uint8    { return unsealSessionRequest }
func (*ReleaseRequest) code() uint8          { return releaseRequest }
func (*HealthRequest) code() uint8           { return healthRequest }
func (*KeysRequest) code() uint8             { return keysRequest }
func (*GenerateKeyRequest) code() uint8      { return generateKeyRequest }
func (*ImportKeyRequest) code() uint8        { return importKeyRequest }
func (*RotateKeyRequest) code() uint8        { return rotateKeyRequest }
func (*PublicKeyRequest) code() uint8        { return publicKeyRequest }

func (*HelloRequest) answer() uint8            { return helloReply }
func (*OpenMasterTokenRequest) answer() uint8  { return openMasterTokenReply }
func (*SealRequest) answer() uint8             { return sealReply }
func (*OpenRequest) answer() uint8             { return openReply }
func (*EntityContextRequest) answer() uint8    { return entityContextReply }
func (*IssueRequest) answer() uint8            { return issueReply }
func (*OpenUserIDTokenRequest) answer() uint8  { return openUserIDTokenReply }
func (*IssueUserIDTokenRequest) answer() uint8 { return issueUserIDTokenReply }
func (*OpenServiceTokenRequest) answer() uint8 { return openServiceTokenReply }
func (*SealServiceTokenRequest) answer() uint8 { return sealServiceTokenReply }
func (*BeginExchangeRequest) answer() uint8    { return beginExchangeReply }
func (*FinishExchangeRequest) answer() uint8   { return finishExchangeReply }
func (*SealSessionRequest) answer() uint8      { return sealSessionReply }
func (*UnsealSessionRequest) answer() uint8    { return unsealSessionReply }
func (*ReleaseRequest) answer() uint8          { return releaseReply }
func (*HealthRequest) answer() uint8           { return healthReply }
func (*KeysRequest) answer() uint8             { return keysReply }
func (*GenerateKeyRequest) answer() uint8      { return changedKeysReply }
func (*ImportKeyRequest) answer() uint8        { return changedKeysReply }
func (*RotateKeyRequest) answer() uint8        { return changedKeysReply }
func (*PublicKeyRequest) answer() uint8        { return publicKeyReply }

func (*HelloReply) code() uint8            { return helloReply }
func (*OpenMasterTokenReply) code() uint8  { return openMasterTokenReply }
func (*SealReply) code() uint8             { return sealReply }
func (*OpenReply) code() uint8             { return openReply }
func (*EntityContextReply) code() uint8    { return entityContextReply }
func (*IssueReply) code() uint8            { return issueReply }
func (*OpenUserIDTokenReply) code() uint8  { return openUserIDTokenReply }
func (*IssueUserIDTokenReply) code() uint8 { return issueUserIDTokenReply }
func (*OpenServiceTokenReply) code() uint8 { return openServiceTokenReply }
func (*SealServiceTokenReply) code() uint8 { return sealServiceTokenReply }
func (*BeginExchangeReply) code() uint8    { return beginExchangeReply }
func (*FinishExchangeReply) code() uint8   { return finishExchangeReply }
func (*SealSessionReply) code() uint8      { return sealSessionReply }
func (*UnsealSessionReply) code() uint8    { return unsealSessionReply }
func (*ReleaseReply) code() uint8          { return releaseReply }
func (*HealthReply) code() uint8           { return healthReply }
func (*KeysReply) code() uint8             { return keysReply }
func (*ChangedKeysReply) code() uint8      { return changedKeysReply }
func (*PublicKeyReply) code() uint8        { return publicKeyReply }
func (*Error) code() uint8                 { return errorReply }

func (*HelloReply) reply()            {}
func (*OpenMasterTokenReply) reply()  {}
func (*SealReply) reply()             {}
func (*OpenReply) reply()             {}
func (*EntityContextReply) reply()    {}
func (*IssueReply) reply()            {}
func (*OpenUserIDTokenReply) reply()  {}
func (*IssueUserIDTokenReply) reply() {}
func (*OpenServiceTokenReply) reply() {}
func (*SealServiceTokenReply) reply() {}
func (*BeginExchangeReply) reply()    {}
func (*FinishExchangeReply) reply()   {}
func (*SealSessionReply) reply()      {}
func (*UnsealSessionReply) reply()    {}
func (*ReleaseReply) reply()          {}
func (*HealthReply) reply()           {}
func (*KeysReply) reply()             {}
func (*ChangedKeysReply) reply()      {}
func (*PublicKeyReply) reply()        {}

func (*OpenImportRequest) code() uint8   { return openImportRequest }
func (*OpenImportRequest) answer() uint8 { return openImportReply }
func (*OpenImportReply) code() uint8     { return openImportReply }
func (*OpenImportReply) reply()          {}

func (*ReadImportRequest) code() uint8   { return readImportRequest }
func (*ReadImportRequest) answer() uint8 { return readImportReply }
func (*ReadImportReply) code() uint8     { return readImportReply }
func (*ReadImportReply) reply()          {}

func (*RewrapRequest) code() uint8   { return rewrapRequest }
func (*RewrapRequest) answer() uint8 { return rewrapReply }
func (*RewrapReply) code() uint8     { return rewrapReply }
func (*RewrapReply) reply()          {}
