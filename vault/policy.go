// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mslkeep/mslkeep/providers"
)

// A rule is what a policy allows at one path.
type rule struct {
	path         string
	capabilities []string
}

// Policy returns the policy, in Vault's language, that is exactly what a configuration needs. It names every key:
// with update only, and no create, a name that is mistyped is refused, where Vault would otherwise make a key
// of that name at the first use.
func Policy(c Config) (string, error) {
	const op = "making a policy"
	if err := c.complete(); err != nil {
		return "", failure(providers.Malformed, op, err)
	}
	if len(c.Keys) == 0 && (c.Wrapped == nil || !c.Wrapped.all()) {
		return "", failure(providers.Malformed, op, errors.New("keys must name the keys: a policy for all keys is not least privilege"))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# What mslkeep-provider-vault needs with its settings, and no more.\n# It is best given to a token without the policy default (token_no_default_policy).\n")
	for _, r := range c.rules() {
		fmt.Fprintf(&b, "path %q {\n  capabilities = [\"%s\"]\n}\n", r.path, strings.Join(r.capabilities, `", "`))
	}
	return b.String(), nil
}

// rules are those of the policy, in order.
func (c *Config) rules() []rule {
	update := []string{"update"}
	rules := []rule{{"auth/token/renew-self", update}, {"sys/capabilities-self", update}, {c.Mount + "/random", update}}
	if c.Auth.Method == "token" {
		rules = append(rules, rule{"auth/token/lookup-self", []string{"read"}})
	} else {
		rules = append(rules, rule{"auth/token/revoke-self", update})
	}
	for _, name := range c.inVault() {
		transit, _ := transitName(name)
		own := []string{"read"}
		if c.Create {
			own = []string{"create", "read", "update", "delete"}
			for _, change := range []string{"/config", "/rotate", "/trim"} {
				rules = append(rules, rule{c.Mount + "/keys/" + transit + change, update})
			}
		}
		rules = append(rules, rule{c.Mount + "/keys/" + transit, own})
		for _, use := range uses(cmp.Or(c.Keys[name], providers.AES256), transit) {
			rules = append(rules, rule{c.Mount + "/" + use, update})
		}
	}
	return rules
}

// inVault are the names of all keys in Vault that the configuration has, in order.
func (c *Config) inVault() []string {
	names := slices.Collect(maps.Keys(c.Keys))
	if c.Wrapped != nil && c.Keys[c.Wrapped.Key] == "" {
		names = append(names, c.Wrapped.Key)
	}
	slices.Sort(names)
	return names
}

// uses are the endpoints at which keys of a type are used.
func uses(t providers.KeyType, transit string) []string {
	switch t {
	case providers.AES128, providers.AES256:
		return []string{"encrypt/" + transit, "decrypt/" + transit, "rewrap/" + transit}
	case providers.HMACSHA256:
		return []string{"hmac/" + transit + "/sha2-256", "verify/" + transit + "/sha2-256"}
	default:
		return []string{"sign/" + transit + "/sha2-256"}
	}
}

// A hazard is a capability that the token ought not to have.
type hazard struct {
	path string
	bad  []string
	why  string
}

// hazards asks for paths of a key that nobody has made, which only a pattern can match, and for what would let
// the token help itself to more.
func (p *Provider) hazards() []hazard {
	change := []string{"create", "update", "patch", "delete", "sudo"}
	name := "typo-" + strings.ToLower(rand.Text())
	hazards := []hazard{
		{p.path("encrypt", name), []string{"create"}, "a mistyped name makes a new key at its first use"},
		{p.path("encrypt", name), []string{"update"}, "keys that the settings do not name can be used"},
		{p.path("decrypt", name), []string{"update"}, "what other keys have encrypted can be decrypted"},
		{p.path("keys", name), []string{"create", "update"}, "keys of any name can be made"},
		{p.path("keys", name), []string{"delete"}, "keys of any name can be deleted"},
		{p.path("keys", name, "config"), change, "keys of any name can be made exportable, or deletable"},
		{p.path("sign", name, "sha2-256"), []string{"update"}, "other keys can sign"},
		{"sys/policies/acl/" + name, change, "policies can be written"},
		{"auth/token/create", change, "tokens can be made"},
		{"sys/mounts/" + name, change, "engines can be mounted"},
	}
	for _, key := range p.config.inVault() {
		transit, _ := transitName(key)
		for _, out := range []string{"export/encryption-key/", "export/signing-key/", "export/hmac-key/", "backup/", "byok-export/"} {
			hazards = append(hazards, hazard{p.path(out + transit), []string{"read"}, "the key can be taken out, should it ever be made exportable"})
		}
		hazards = append(hazards, hazard{p.path("encrypt", transit), []string{"create"}, "the key is made anew at its first use after it was deleted"})
		if !p.config.Create {
			hazards = append(hazards, hazard{p.path("keys", transit), []string{"create", "update", "delete"}, "the key can be made or deleted, and the settings have no create"},
				hazard{p.path("keys", transit, "config"), change, "the key can be made exportable, and the settings have no create"})
		}
	}
	return hazards
}

// Lacking asks Vault what the token may do, and says what the configuration needs and the token may not, each with
// the path.
func (p *Provider) Lacking(ctx context.Context) ([]string, error) {
	rules := p.config.rules()
	var paths []string
	for _, r := range rules {
		paths = append(paths, r.path)
	}
	can, err := p.capabilities(ctx, paths)
	if err != nil {
		return nil, err
	}
	var lacking []string
	for _, r := range rules {
		for _, c := range r.capabilities {
			if has := can[r.path]; !slices.Contains(has, c) && !slices.Contains(has, "root") {
				lacking = append(lacking, c+" on "+r.path)
			}
		}
	}
	return lacking, nil
}

// Wide asks Vault what the token may do, and says what of it is more than the configuration needs, each with the
// path. It fails with Denied if the token may not ask (sys/capabilities-self).
func (p *Provider) Wide(ctx context.Context) ([]string, error) {
	hazards := p.hazards()
	var paths []string
	for _, h := range hazards {
		paths = append(paths, h.path)
	}
	can, err := p.capabilities(ctx, paths)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, h := range hazards {
		has := can[h.path]
		if slices.Contains(has, "root") {
			return []string{"the token is root's: it can do everything"}, nil
		}
		if bad := h.among(has); len(bad) > 0 {
			found = append(found, fmt.Sprintf("%s on %s: %s", strings.Join(bad, ", "), h.path, h.why))
		}
	}
	return found, nil
}

// capabilities asks what the token may do at some paths.
func (p *Provider) capabilities(ctx context.Context, paths []string) (map[string][]string, error) {
	const op = "asking for the token's capabilities"
	slices.Sort(paths)
	paths = slices.Compact(paths)
	body, err := json.Marshal(map[string][]string{"paths": paths})
	if err != nil {
		return nil, failure(providers.Malformed, op, err)
	}
	var answer map[string]json.RawMessage
	if err := p.call(ctx, op, request{method: "POST", path: "sys/capabilities-self", body: body, again: true}, &answer); err != nil {
		return nil, err
	}
	can := make(map[string][]string)
	for _, path := range paths {
		var has []string
		if json.Unmarshal(answer[path], &has) != nil {
			return nil, failure(providers.Device, op, errAnswer)
		}
		can[path] = has
	}
	return can, nil
}

// among returns the bad ones of some capabilities.
func (h hazard) among(has []string) (bad []string) {
	for _, b := range h.bad {
		if slices.Contains(has, b) {
			bad = append(bad, b)
		}
	}
	return bad
}
