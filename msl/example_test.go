// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package msl_test

import (
	"context"
	"crypto/rsa"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

// greeter answers with the name of the sender. The answer is encrypted unless it says otherwise.
type greeter struct{}

func (greeter) ServeMSL(_ context.Context, w *msl.ResponseWriter, m *msl.Message) error {
	_, err := fmt.Fprintf(w, "hello, %s", m.Identity())
	return err
}

// A server that proves itself with an RSA key, and talks to devices with pre-shared keys. All of these
// keys are in the agent.
func ExampleServer() {
	keys, err := agent.Dial(context.Background(), "unix:/run/mslkeep/agent.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer keys.Close()
	server, err := msl.NewServer(&msl.Config{Entity: msl.RSA("server", "server")}, keys, greeter{})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", server))
}

// A device with a pre-shared key, which keeps its session in a file. The file is of no use without the
// agent's storage key.
func ExampleClient() {
	ctx := context.Background()
	keys, err := agent.Dial(ctx, "unix:/run/mslkeep/agent.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer keys.Close()
	store, err := msl.OpenFileStore("tokens.json")
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	serverKey := rsaKeys(nil)["rsa-server-key"] // an *rsa.PublicKey
	client, err := msl.NewClient(&msl.Config{
		Entity:        msl.PSK("device-1"),
		RSAPublicKeys: map[string]*rsa.PublicKey{"server": serverKey},
	}, keys, &msl.HTTPTransport{URL: "http://127.0.0.1:8080/"}, store)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	answer, err := client.Do(ctx, &msl.Request{Body: strings.NewReader("who am I?")})
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Close()
	io.Copy(os.Stdout, answer)
}
