// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"

	"github.com/mslkeep/mslkeep/agent"
	"github.com/mslkeep/mslkeep/msl"
)

// maxActive is how many operations a client has under way at once. Two, since of three that wait for tokens the
// schedule would not decide which is next.
const maxActive = 2

// A client is a device, or a peer that asks. It may be restarted.
type client struct {
	sim    *simulation
	name   string
	server *server
	weight int // how often it asks

	host    *host
	keys    *agent.Client
	config  *msl.Config
	clock   *clock
	store   *store
	stream  *msl.StreamTransport // or nil
	client  *msl.Client
	active  int
	earlier []*msl.State // for USER_ID_TOKEN
	users   []string
}

// nameEnd is at the end of all names, so that a name which was changed is nobody's, or somebody else's by no single
// change.
const nameEnd = "-known"

// start starts the client, or starts it anew.
func (c *client) start() {
	if c.client != nil {
		c.client.Close()
		c.store.restarted()
	}
	var transport msl.Transport = &post{server: c.server}
	if c.stream != nil {
		transport = c.stream
	}
	config := *c.config
	if config.PeerToPeer {
		known := map[string]bool{config.RemoteIdentity: true}
		config.Policy = &policy{sim: c.sim, MemoryPolicy: msl.NewMemoryPolicy(&config), known: known, revoked: make(map[int64]bool)}
	}
	var err error
	if c.client, err = msl.NewClient(&config, c.keys, transport, c.store); err != nil {
		panic(err)
	}
}

// snapshot keeps what the client has for later logins.
func (c *client) snapshot() {
	state, err := c.store.MemoryStore.Load(context.Background())
	if err == nil && len(state.UserIDTokens) > 0 {
		if c.earlier = append(c.earlier, state); len(c.earlier) > 8 {
			c.earlier = c.earlier[1:]
		}
	}
}
