// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"strings"

	"github.com/mslkeep/mslkeep/internal/msltest/inproc"
	"github.com/mslkeep/mslkeep/msl"
)

// pinLogin authenticates users with a scheme of the application's own, named PIN: its data is an object with the
// members "account" and "pin".
func pinLogin(_ context.Context, _ string, authData []byte) (user string, err error) {
	var login struct{ Account, PIN string }
	if json.Unmarshal(authData, &login) != nil {
		return "", msl.UnsupportedUserAuthData
	}
	if login.Account != "ada" || login.PIN != "1815" { // in earnest: compare hashes, in constant time, and count failures
		return "", msl.UserAuthVerificationFailed
	}
	return login.Account, nil
}

// An application adds a user authentication scheme of its own: the server gets a function, and the client
// sends what that function understands. Both sides use it in encrypted messages only, and a user who has
// authenticated gets a user ID token, as with every scheme.
func ExampleUserLogin() {
	keys, done, err := inproc.Start() // in earnest: agent.Start or agent.Dial
	if err != nil {
		log.Fatal(err)
	}
	defer done()
	server, err := msl.NewServer(&msl.Config{
		Entity:     msl.PSK("psk-server"),
		UserLogins: map[string]msl.UserLogin{"PIN": pinLogin},
	}, keys, greeter{})
	if err != nil {
		log.Fatal(err)
	}
	site := httptest.NewServer(server)
	defer site.Close()
	client, err := msl.NewClient(&msl.Config{Entity: msl.PSK("psk-client")}, keys, &msl.HTTPTransport{URL: site.URL}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for _, pin := range []string{"1815", "1816"} {
		answer, err := client.Do(context.Background(), &msl.Request{
			Body: strings.NewReader("hello"),
			User: "whoever knows " + pin,
			Credentials: func(_ context.Context, again bool) (*msl.UserAuthData, error) {
				if again {
					return nil, errors.New("the peer knows no such account")
				}
				return msl.ApplicationLogin("PIN", fmt.Appendf(nil, `{"account":"ada","pin":%q}`, pin))
			},
		})
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("user ID token:", answer.UserIDToken != nil)
		answer.Close()
	}
	// Output:
	// user ID token: true
	// the peer knows no such account
}
