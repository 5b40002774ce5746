// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mslkeep/mslkeep/internal/msltest"
	"github.com/mslkeep/mslkeep/msl"
)

// fixtureKeys are keys of the fixtures, in hexadecimal.
type fixtureKeys struct {
	ID         string
	Encryption string `json:"encryption_key"`
	HMAC       string `json:"hmac_key"`
	Wrapping   string `json:"wrapping_key"`
}

// fixtures are what examples/interop has of fixtures.json.
type fixtures struct {
	MSL, Session fixtureKeys
	Services     map[string]fixtureKeys `json:"service_token_contexts"`
	PSK          map[string]fixtureKeys
	Pairs        map[string]struct{ PKCS8, SPKI []byte } `json:"key_pairs"`
	RSA          map[string]string                       `json:"rsa_store"`
	ECC          map[string]string                       `json:"ecc_store"`
	Certificates map[string]struct {
		DER []byte
		Key string
	}
	Groups map[string]struct{ P, G string } `json:"dh_parameters"`
	Users  []struct{ Email, Password, User string }
}

// files returns the files of keys and certificates as examples/interop must have them.
func (f *fixtures) files() map[string]string {
	files := make(map[string]string)
	put := func(name, kind string, der []byte) {
		files[name+".pem"] = string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	sets := maps.Clone(f.PSK)
	sets["msl"] = f.MSL
	for _, k := range f.Services {
		sets[k.ID] = k
	}
	for name, k := range sets {
		if k.Wrapping == "" && f.PSK[name] == k {
			files["keys/"+name+"-enc.hex"], files["keys/"+name+"-mac.hex"] = k.Encryption+"\n", k.HMAC+"\n"
			continue
		}
		files["keys/"+name+".hex"] = k.Encryption + k.HMAC + k.Wrapping + "\n"
	}
	pairs := maps.Clone(f.RSA)
	maps.Copy(pairs, f.ECC)
	for name, pair := range pairs {
		put("keys/"+name, "PRIVATE KEY", f.Pairs[pair].PKCS8)
		put("public/"+name, "PUBLIC KEY", f.Pairs[pair].SPKI)
	}
	for name, id := range map[string]string{"x509-client": "x_leaf", "x509-server": "x_leaf2"} {
		put("keys/"+name, "PRIVATE KEY", f.Pairs[f.Certificates[id].Key].PKCS8)
		put("public/"+name, "CERTIFICATE", f.Certificates[id].DER)
	}
	put("public/roots", "CERTIFICATE", f.Certificates["x_ca"].DER)
	put("public/intermediates", "CERTIFICATE", f.Certificates["x_int"].DER)
	for _, u := range f.Users {
		files["keys/"+u.User+".password"] = u.Password + "\n"
	}
	return files
}

// TestInteropFiles: the files of examples/interop are those of the fixtures, and no others.
func TestInteropFiles(t *testing.T) {
	t.Parallel()
	const dir = "../../examples/interop/"
	var f fixtures
	msltest.VectorFile(t, "fixtures.json", &f)
	want := f.files()
	for name, text := range want {
		if data, err := os.ReadFile(dir + name); err != nil || string(data) != text {
			t.Errorf("%s is not that of the fixtures: %v", name, err)
		}
	}
	for _, sub := range []string{"keys", "public"} {
		found, err := filepath.Glob(dir + sub + "/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			if _, ok := want[sub+"/"+filepath.Base(name)]; !ok {
				t.Errorf("%s is not of the fixtures", name)
			}
		}
	}
	w := interopWorld(t)
	for _, agent := range []string{"server/agent.toml", "client/agent.toml", "client/agent-peer.toml"} {
		text := strings.ToLower(strings.Join(strings.Fields(w.read(agent)), ""))
		if g := f.Groups["dh768"]; !strings.Contains(text, g.P) || !strings.Contains(text, `g="`+g.G+`"`) {
			t.Errorf("%s has another dh768", agent)
		}
	}
	s := w.interopServe("")
	for _, u := range f.Users {
		w.send("client", s, "--user", "me", "--email", u.Email, "--password-file", u.User+".password", "hello").ok(t)
	}
}

// decrypt reads a ciphertext envelope of the session or the issuer, as any other stack does.
func (k fixtureKeys) decrypt(t *testing.T, envelope []byte) string {
	t.Helper()
	e := decoded[struct{ IV, Ciphertext []byte }](t, string(envelope))
	key, _ := hex.DecodeString(k.Encryption)
	block, err := aes.NewCipher(key)
	if err != nil || len(e.IV) != 16 || len(e.Ciphertext) == 0 || len(e.Ciphertext)%16 != 0 {
		t.Fatalf("not an envelope: %s, %v", envelope, err)
	}
	cipher.NewCBCDecrypter(block, e.IV).CryptBlocks(e.Ciphertext, e.Ciphertext)
	return string(e.Ciphertext[:len(e.Ciphertext)-int(e.Ciphertext[len(e.Ciphertext)-1])])
}

// signed tells whether the signature of data is good.
func (k fixtureKeys) signed(data, signature []byte) bool {
	key, _ := hex.DecodeString(k.HMAC)
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	return hmac.Equal(mac.Sum(nil), signature)
}

// TestInteropTokens: the keys of the fixtures open what we issue.
func TestInteropTokens(t *testing.T) {
	t.Parallel()
	var f fixtures
	msltest.VectorFile(t, "fixtures.json", &f)
	w := interopWorld(t)
	s := w.interopServe("")
	w.send("client", s, append(strings.Fields(asPassword), "--store", "tokens", "hello")...).ok(t)
	kept := decoded[struct {
		MasterToken  []byte
		UserIDTokens map[string][]byte
	}](t, w.read("client/tokens"))
	for _, c := range []struct {
		token        []byte
		member, says string
	}{{kept.MasterToken, "sessiondata", `"psk-client"`}, {kept.UserIDTokens["me"], "userdata", `"user1"`}} {
		token := decoded[struct{ TokenData, Signature []byte }](t, string(c.token))
		if !f.MSL.signed(token.TokenData, token.Signature) {
			t.Errorf("the fixtures' key does not verify a token: %s", c.token)
		}
		var secret []byte
		if err := json.Unmarshal(decoded[map[string]json.RawMessage](t, string(token.TokenData))[c.member], &secret); err != nil {
			t.Fatal(err)
		}
		if plain := f.MSL.decrypt(t, secret); !strings.Contains(plain, `"identity":`+c.says) {
			t.Errorf("%s does not name %s", plain, c.says)
		}
	}
}

// A posting is a message of the vectors, and what a server must do with it.
type posting struct {
	msltest.Case
	message []byte
	token   bool     // it is under a master token
	err     msl.Code // that the server answers with, or 0
	late    bool     // the data arrives all the same
	keys    bool     // the answer brings new ones
}

// newPosting says what becomes of a message of 2023. If lasting is set, it goes under that master token, which has the
// same session keys as the one of the vector, and is good for long.
func newPosting(t *testing.T, c msltest.Case, lasting []byte) *posting {
	t.Helper()
	p := &posting{Case: c, message: c.Bytes("message")}
	d := json.NewDecoder(bytes.NewReader(p.message))
	var outer map[string]json.RawMessage
	if err := d.Decode(&outer); err != nil {
		t.Fatal(err)
	}
	p.token = outer["mastertoken"] != nil
	h := decoded[struct {
		Renewable      bool
		KeyRequestData []struct{ Keydata struct{ KeyID string } }
		UserIDToken    json.RawMessage
	}](t, string(c.Bytes("headerdata")))
	expired := p.token && lasting == nil
	p.keys = h.Renewable && h.KeyRequestData != nil && lasting == nil
	switch {
	case expired && !h.Renewable:
		p.err = msl.MessageExpiredNotRenewable
	case expired && h.KeyRequestData == nil:
		p.err = msl.MessageExpiredNoKeyRequestData
	case lasting != nil && h.UserIDToken != nil:
		p.err = msl.UserIDTokenMasterTokenMismatch // it has another serial number
	case p.keys && h.KeyRequestData[0].Keydata.KeyID == "SESSION":
		p.err, p.late = msl.KeyxFactoryNotFound, true
	}
	if lasting != nil {
		outer["mastertoken"] = lasting
		header, err := json.Marshal(outer)
		if err != nil {
			t.Fatal(err)
		}
		p.message = append(header, p.message[d.InputOffset():]...)
	}
	return p
}

// arrived tells as whom the server knows the sender of data that it has, and forgets it.
func (p *posting) arrived(book *guestBook) string {
	book.mu.Lock()
	defer book.mu.Unlock()
	defer clear(book.senders)
	for data, sender := range book.senders {
		sum := sha256.Sum256([]byte(data))
		if p.Has("data") && data == string(p.Bytes("data")) || p.Has("data_sha256") && bytes.Equal(sum[:], p.Hex("data_sha256")) {
			return sender
		}
	}
	return ""
}

// An answer is a message as another stack reads it.
type answer struct {
	Code        msl.Code        `json:"internalcode"` // of an error message
	ID          int64           `json:"messageid"`
	KeyResponse json.RawMessage `json:"keyresponsedata"`
	token       bool
}

// post posts a message, and opens the header of the answer with the fixtures' keys.
func (p *posting) post(t *testing.T, s *process, f *fixtures) (a answer) {
	t.Helper()
	r, err := http.Post(s.url, "application/msl", bytes.NewReader(p.message))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	d := json.NewDecoder(r.Body)
	var h struct {
		MasterToken                      json.RawMessage
		HeaderData, ErrorData, Signature []byte
	}
	if err := d.Decode(&h); err != nil {
		t.Fatal(err)
	}
	keys, data := f.PSK["psk-server"], slices.Concat(h.HeaderData, h.ErrorData)
	if h.MasterToken != nil {
		keys = f.Session
	}
	if !keys.signed(data, h.Signature) {
		t.Fatalf("the answer is not signed with the fixtures' keys")
	}
	a = decoded[answer](t, keys.decrypt(t, data))
	a.token = h.MasterToken != nil
	var chunk struct{ Payload, Signature []byte }
	if h.HeaderData == nil || a.KeyResponse != nil || p.Bool("is_handshake") {
		return a
	}
	if err := d.Decode(&chunk); err != nil || !keys.signed(chunk.Payload, chunk.Signature) {
		t.Errorf("the first payload is not signed with the fixtures' keys: %v", err)
	}
	return a
}

// TestInteropMessages posts the messages of the vectors to a server, byte by byte as the reference made them. Their tokens
// have expired long since, so those that cannot be renewed go under another token of the vectors, too.
func TestInteropMessages(t *testing.T) {
	t.Parallel()
	f := new(fixtures)
	msltest.VectorFile(t, "fixtures.json", f)
	w, book := interopWorld(t), newGuestBook(t)
	s := w.interopServe("--scheme PSK --identity psk-server", "--upstream", book.url)
	var lasting []byte
	for _, c := range msltest.Cases(t, "mastertokens.json") {
		if c.Group == "issue" && c.Name == "far-future" {
			lasting = c.Bytes("token")
		}
	}
	var opened, refused int
	try := func(p *posting, id int64) {
		a, who := p.post(t, s, f), p.arrived(book)
		want := p.String("identity") + "|" + p.String("user")
		switch {
		case p.Bool("is_handshake") || p.err != 0 && !p.late:
			want = ""
		case strings.HasPrefix(want, "provisioned-"):
			want = who
		}
		if a.Code != p.err || a.ID != (id+1)%(1<<53+1) || who != want || a.KeyResponse != nil != (p.keys && p.err == 0) || a.token != (p.token && p.err == 0) {
			t.Errorf("%s/%s: the server knows %q; %+v, want %+v", p.Group, p.Name, who, a, p.err)
		}
		if p.err == 0 {
			opened++
		} else {
			refused++
		}
	}
	for _, c := range msltest.Cases(t, "messages.json") {
		if c.String("receiver") != "server" || c.Bool("peer_to_peer") {
			continue
		}
		id := decoded[struct{ MessageID int64 }](t, string(c.Bytes("headerdata"))).MessageID
		p := newPosting(t, c, nil)
		try(p, id)
		if p.token {
			try(newPosting(t, c, lasting), id)
		}
	}
	if opened < 80 || refused < 20 {
		t.Errorf("%d messages were opened, %d refused", opened, refused)
	}
}
