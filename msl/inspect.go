// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/mslkeep/mslkeep/internal/mslenc"
)

// An Inspection is everything in a message that needs no key.
type Inspection struct {
	Kind        string           `json:"kind"` // "message" or "error message"
	Entity      *InspectedEntity `json:"entity_authentication_data,omitempty"`
	MasterToken *InspectedToken  `json:"master_token,omitempty"`
	Header      *InspectedPart   `json:"header"`
	Payloads    []*InspectedPart `json:"payloads,omitempty"`
	Bytes       int64            `json:"bytes"`
	Complete    bool             `json:"complete"` // the stream ended after an object, and, where that can be seen, with the end of the message
}

// An InspectedEntity is who authenticates, and how.
type InspectedEntity struct {
	Scheme   string          `json:"scheme"`
	Identity string          `json:"identity,omitempty"` // of schemes that this package knows
	AuthData json.RawMessage `json:"authdata"`
}

// An InspectedToken is the public part of a token.
type InspectedToken struct {
	Data      json.RawMessage `json:"data"` // without its encrypted member
	Encrypted *InspectedPart  `json:"encrypted,omitempty"`
	Signature int             `json:"signature_bytes"`
}

// An InspectedPart is a protected part of a message or token: a ciphertext envelope, or plain data where
// the sender's scheme does not encrypt.
type InspectedPart struct {
	Plain      json.RawMessage `json:"plain,omitempty"`
	KeyID      string          `json:"key_id,omitempty"`
	IV         int             `json:"iv_bytes,omitempty"`
	Ciphertext int             `json:"ciphertext_bytes,omitempty"`
	Signature  int             `json:"signature_bytes"`
}

// Inspect reads one message and returns what can be seen of it without keys. Nothing in it is verified. The
// error is *Error for what is not a message.
func Inspect(r io.Reader, l Limits) (*Inspection, error) {
	counted := &countingReader{r: r}
	limits := (&Config{Limits: l}).limits()
	d := mslenc.NewDecoder(counted, mslenc.Limits{Size: max(limits.Header, limits.Payload)})
	o, err := d.NextHeader()
	if err != nil {
		return nil, decoderError(err, "header")
	}
	in := &Inspection{Kind: "message"}
	if err := in.header(o); err != nil {
		return nil, err
	}
	for {
		o, err := d.Next()
		if err == io.EOF {
			in.Complete = len(in.Payloads) == 0 || in.ended()
			break
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, decoderError(err, "payload chunk")
		}
		p, err := inspectPart(o, "payload")
		if err != nil {
			return nil, err
		}
		in.Payloads = append(in.Payloads, p)
		if len(in.Payloads) > maxInspected {
			return nil, fail(MSLParseError, "payload chunk", mslenc.ErrLimit)
		}
	}
	in.Bytes = counted.n
	return in, nil
}

// maxInspected bounds the payloads that an Inspection lists.
const maxInspected = 1 << 16

// ended reports false if the last payload is readable and not the end of its message.
func (in *Inspection) ended() bool {
	last := in.Payloads[len(in.Payloads)-1]
	var p struct{ EndOfMsg bool }
	return last.Plain == nil || json.Unmarshal(last.Plain, &p) == nil && p.EndOfMsg
}

func (in *Inspection) header(o mslenc.Object) (err error) {
	if e, failed := o.Object("entityauthdata"); failed == nil {
		in.Entity = &InspectedEntity{AuthData: json.RawMessage("{}")}
		in.Entity.Scheme, _ = e.String("scheme")
		if a, failed := e.Object("authdata"); failed == nil {
			in.Entity.AuthData = clone(a.Encoding())
		}
		if known, failed := ParseEntityAuthData(e.Encoding()); failed == nil {
			in.Entity.Identity = known.Identity()
		}
	}
	if t, failed := o.Object("mastertoken"); failed == nil {
		if in.MasterToken, err = inspectToken(t, "sessiondata"); err != nil {
			return err
		}
	}
	data := "headerdata"
	if !o.Has(data) && o.Has("errordata") {
		data, in.Kind = "errordata", "error message"
	}
	in.Header, err = inspectPart(o, data)
	return err
}

// inspectToken reads a token's public part.
func inspectToken(o mslenc.Object, encrypted string) (*InspectedToken, error) {
	f := fields{obj: o, what: "token", code: MSLParseError}
	data, signature := f.binary("tokendata"), f.binary("signature")
	if f.err != nil {
		return nil, f.err
	}
	t := &InspectedToken{Signature: len(signature)}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, fail(MSLParseError, "token data", nil)
	}
	if p, err := mslenc.Parse(data); err == nil && p.Has(encrypted) {
		if b, err := p.Binary(encrypted); err == nil {
			t.Encrypted = inspectBytes(b)
		}
	}
	delete(members, encrypted)
	t.Data, _ = json.Marshal(members)
	return t, nil
}

// inspectPart reads a protected part and the signature beside it.
func inspectPart(o mslenc.Object, name string) (*InspectedPart, error) {
	f := fields{obj: o, what: name, code: MSLParseError}
	data, signature := f.binary(name), f.binary("signature")
	if f.err != nil {
		return nil, f.err
	}
	p := inspectBytes(data)
	p.Signature = len(signature)
	return p, nil
}

// inspectBytes tells a ciphertext envelope from a plain object. What is neither is only counted.
func inspectBytes(data []byte) *InspectedPart {
	o, err := mslenc.Parse(data)
	if err != nil {
		return &InspectedPart{Ciphertext: len(data)}
	}
	ciphertext, err := o.Binary("ciphertext")
	if err != nil {
		return &InspectedPart{Plain: clone(data)}
	}
	p := &InspectedPart{Ciphertext: len(ciphertext)}
	p.KeyID, _ = o.String("keyid")
	iv, _ := o.Binary("iv")
	p.IV = len(iv)
	return p
}

func clone(b []byte) json.RawMessage { return append(json.RawMessage(nil), b...) }

// Text returns the inspection as lines for people.
func (in *Inspection) Text() string {
	s := fmt.Sprintf("%s, %d bytes\n", in.Kind, in.Bytes)
	if in.Entity != nil {
		s += fmt.Sprintf("sender       %s authenticates with %s: %s\n", in.Entity.Identity, in.Entity.Scheme, in.Entity.AuthData)
	}
	if t := in.MasterToken; t != nil {
		s += fmt.Sprintf("sender       master token %s\n             session data %s, signature of %d bytes\n", t.Data, t.Encrypted.text(), t.Signature)
	}
	s += fmt.Sprintf("header       %s, signature of %d bytes\n", in.Header.text(), in.Header.Signature)
	for i, p := range in.Payloads {
		s += fmt.Sprintf("payload %-4d %s, signature of %d bytes\n", i+1, p.text(), p.Signature)
	}
	if !in.Complete {
		s += "the message is cut off\n"
	}
	return s
}

func (p *InspectedPart) text() string {
	switch {
	case p == nil:
		return "absent"
	case p.Plain != nil:
		return "readable: " + string(p.Plain)
	default:
		return fmt.Sprintf("%d bytes of ciphertext, key id %q", p.Ciphertext, p.KeyID)
	}
}

// countingReader counts what was read.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
