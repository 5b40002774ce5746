// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

// The fields of each message, in the order in which they are encoded.

func (m *HelloRequest) fields(c *coder) { c.u32(&m.Version) }

func (m *HelloReply) fields(c *coder) {
	c.u32(&m.Version)
	c.u32(&m.AgentPID)
	c.u32(&m.MaxFrame)
	c.u32(&m.MaxInFlight)
}

func (m *OpenMasterTokenRequest) fields(c *coder) {
	c.token(&m.Token)
	c.parts(&m.Parts)
}

func (m *OpenMasterTokenReply) fields(c *coder) {
	c.flag(&m.Verified)
	c.text(&m.Identity)
	c.bytes(&m.IssuerData)
	c.handle(&m.Session)
	c.i32(&m.FailedPart)
	c.byteStrings(&m.Plain) // last, for Recycle
}

func (m *SealRequest) fields(c *coder) {
	c.handle(&m.Context)
	c.byteStrings(&m.Plain)
}

func (m *SealReply) fields(c *coder) { c.parts(&m.Parts) }

func (m *OpenRequest) fields(c *coder) {
	c.handle(&m.Context)
	c.parts(&m.Parts)
}

func (m *OpenReply) fields(c *coder) {
	c.i32(&m.FailedPart)
	c.byteStrings(&m.Plain) // last, for Recycle
}

func (m *EntityContextRequest) fields(c *coder) {
	c.text(&m.Scheme)
	c.text(&m.Identity)
	c.text(&m.KeyID)
	c.bytes(&m.Record)
}

func (m *EntityContextReply) fields(c *coder) { c.handle(&m.Context) }

func (m *IssueRequest) fields(c *coder) {
	c.text(&m.Scheme)
	c.bytes(&m.KeyData)
	c.handle(&m.Session)
	c.handle(&m.Entity)
	c.text(&m.Identity)
	c.i64(&m.RenewalWindow)
	c.i64(&m.Expiration)
	c.bytes(&m.IssuerData)
	c.bytes(&m.Record)
}

func (m *IssueReply) fields(c *coder) {
	c.token(&m.Token)
	c.bytes(&m.KeyData)
	c.handle(&m.Session)
}

func (m *OpenUserIDTokenRequest) fields(c *coder) { c.token(&m.Token) }

func (m *OpenUserIDTokenReply) fields(c *coder) {
	c.flag(&m.Verified)
	c.text(&m.User)
	c.bytes(&m.IssuerData)
}

func (m *IssueUserIDTokenRequest) fields(c *coder) {
	c.handle(&m.Session)
	c.text(&m.User)
	c.i64(&m.SerialNumber)
	c.i64(&m.RenewalWindow)
	c.i64(&m.Expiration)
	c.bytes(&m.IssuerData)
}

func (m *IssueUserIDTokenReply) fields(c *coder) { c.token(&m.Token) }

func (m *OpenServiceTokenRequest) fields(c *coder) {
	c.text(&m.Keys)
	c.token(&m.Token)
}

func (m *OpenServiceTokenReply) fields(c *coder) {
	c.flag(&m.Verified)
	c.bytes(&m.Data)
}

func (m *SealServiceTokenRequest) fields(c *coder) {
	c.text(&m.Keys)
	c.text(&m.Name)
	c.i64(&m.MasterTokenSerialNumber)
	c.i64(&m.UserIDTokenSerialNumber)
	c.flag(&m.Encrypt)
	c.text(&m.Compression)
	c.bytes(&m.Data)
}

func (m *SealServiceTokenReply) fields(c *coder) { c.token(&m.Token) }

func (m *BeginExchangeRequest) fields(c *coder) {
	c.text(&m.Scheme)
	c.text(&m.Mechanism)
	c.text(&m.Identity)
	c.handle(&m.Session)
}

func (m *BeginExchangeReply) fields(c *coder) {
	c.bytes(&m.KeyData)
	c.handle(&m.Pending)
}

func (m *FinishExchangeRequest) fields(c *coder) {
	c.handle(&m.Pending)
	c.bytes(&m.KeyData)
	c.token(&m.Token)
	c.text(&m.Identity)
	c.i64(&m.SequenceNumber)
}

func (m *FinishExchangeReply) fields(c *coder) { c.handle(&m.Session) }

func (m *SealSessionRequest) fields(c *coder) { c.handle(&m.Session) }

func (m *SealSessionReply) fields(c *coder) { c.bytes(&m.Sealed) }

func (m *UnsealSessionRequest) fields(c *coder) {
	c.bytes(&m.Sealed)
	c.token(&m.Token)
}

func (m *UnsealSessionReply) fields(c *coder) { c.handle(&m.Session) }

func (m *ReleaseRequest) fields(c *coder) { list(c, &m.Handles, 16, (*coder).handle) }

func (m *ReleaseReply) fields(*coder) {}

func (m *HealthRequest) fields(*coder) {}

func (m *HealthReply) fields(c *coder) {
	list(c, &m.Findings, 9, (*coder).finding)
	c.u32(&m.Sessions)
	c.u32(&m.Entities)
}

func (m *KeysRequest) fields(c *coder) { c.text(&m.Prefix) }

func (m *KeysReply) fields(c *coder) {
	c.keys(&m.Keys)
	list(c, &m.Failed, 9, (*coder).finding)
}

func (m *GenerateKeyRequest) fields(c *coder) {
	c.text(&m.Name)
	c.text(&m.Type)
}

func (m *ImportKeyRequest) fields(c *coder) {
	c.text(&m.Name)
	c.text(&m.Type)
	c.text(&m.Path)
	c.text(&m.Format)
}

func (m *RotateKeyRequest) fields(c *coder) { c.text(&m.Name) }

func (m *ChangedKeysReply) fields(c *coder) { c.keys(&m.Keys) }

func (m *PublicKeyRequest) fields(c *coder) {
	c.text(&m.Name)
	c.u32(&m.Version)
}

func (m *PublicKeyReply) fields(c *coder) {
	c.key(&m.Key)
	c.bytes(&m.SPKI)
}

func (m *OpenImportRequest) fields(c *coder) {
	c.text(&m.Path)
	c.text(&m.Format)
	c.u64(&m.Skip)
	c.text(&m.Identity)
}

func (m *OpenImportReply) fields(c *coder) { c.handle(&m.Import) }

func (m *ReadImportRequest) fields(c *coder) {
	c.handle(&m.Import)
	c.u32(&m.Lines)
}

func (m *ReadImportReply) fields(c *coder) {
	list(c, &m.Entities, 8, (*coder).entity)
	list(c, &m.Bad, 12, (*coder).badLine)
	c.u64(&m.Line)
	c.u64(&m.Bytes)
	c.flag(&m.Done)
}

func (m *RewrapRequest) fields(c *coder) { list(c, &m.Entities, 8, (*coder).entity) }

func (m *RewrapReply) fields(c *coder) { list(c, &m.Entities, 8, (*coder).entity) }

func (e *Error) fields(c *coder) {
	c.u8((*uint8)(&e.Code))
	if e.Code < StaleHandle || e.Code > Canceled {
		c.bad = true
	}
	c.i32(&e.MSL)
	c.text(&e.Detail)
}
