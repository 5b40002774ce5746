// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/mslkeep/mslkeep/providers"
)

// complete checks a configuration and fills in what is left out.
func (c *Config) complete() error {
	u, err := url.Parse(c.Address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return errors.New("address must be https://HOST:PORT")
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return errors.New("address must be https, except for a Vault on this machine's loopback interface")
	}
	for what, path := range map[string]string{"ca": c.CA, "auth.certificate": c.Auth.Certificate} {
		if path != "" && !filepath.IsAbs(path) {
			return fmt.Errorf("%s must be an absolute path", what)
		}
	}
	if c.Mount = strings.Trim(c.Mount, "/"); c.Mount == "" {
		c.Mount = "transit"
	}
	if !isMount(c.Mount) {
		return errors.New("mount has characters that no mount has")
	}
	for name, t := range c.Keys {
		if _, ok := transitName(name); !ok {
			return fmt.Errorf("there can be no key in Vault named %q", name)
		}
		if transitTypes[t] == "" {
			return fmt.Errorf("keys: Vault makes no keys of type %q", t)
		}
	}
	if c.Timeout < 0 || c.Timeout > Duration(time.Minute) {
		return errors.New("timeout must be at most a minute")
	}
	if c.Timeout == 0 {
		c.Timeout = Duration(defaultTimeout)
	}
	if c.Window > Duration(50*time.Millisecond) {
		return errors.New("window must be at most 50ms")
	}
	if c.Window == 0 {
		c.Window = Duration(defaultWindow)
	}
	if c.Wrapped != nil {
		w := *c.Wrapped
		if err := w.complete(); err != nil {
			return err
		}
		c.Wrapped = &w
	}
	return c.Auth.complete(u.Scheme == "https")
}

func loopback(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}

func (w *Wrapped) complete() error {
	if !filepath.IsAbs(w.Folder) {
		return errors.New("wrapped.folder must be an absolute path")
	}
	if _, ok := transitName(w.Key); !ok {
		return errors.New("wrapped.key must be the name of a key of transit")
	}
	if w.Names == nil {
		w.Names = []string{"*"}
	}
	if w.Hold < 0 {
		return errors.New("wrapped.hold must not be negative")
	}
	if w.Hold == 0 {
		w.Hold = Duration(defaultHold)
	}
	return nil
}

func (w *Wrapped) all() bool { return len(w.Names) == 1 && w.Names[0] == "*" }

// matches reports whether a key of that name is a wrapped one.
func (w *Wrapped) matches(name string) bool {
	if name == w.Key {
		return false
	}
	for _, pattern := range w.Names {
		before, after, star := strings.Cut(pattern, "*")
		if name == pattern || star && len(name) >= len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after) {
			return true
		}
	}
	return false
}

// transitTypes are the types of keys, as transit calls them.
var transitTypes = map[providers.KeyType]string{
	providers.AES128: "aes128-gcm96", providers.AES256: "aes256-gcm96", providers.HMACSHA256: "hmac",
	providers.RSA2048: "rsa-2048", providers.RSA3072: "rsa-3072", providers.RSA4096: "rsa-4096", providers.ECP256: "ecdsa-p256",
}

// typeOf undoes transitTypes.
func typeOf(transit string) (providers.KeyType, bool) {
	for t, name := range transitTypes {
		if name == transit {
			return t, true
		}
	}
	return "", false
}

const maxName = 200 // bytes of a key's name

// transitName is the name that a key has in Vault: letters, digits, _, - and . with a letter, digit or _ at
// both ends. Different keys have different names there.
func transitName(name string) (string, bool) {
	if name == "" || len(name) > maxName || strings.Contains(name, "__") || strings.Contains(name, "_/") || strings.Contains(name, "/_") {
		return "", false
	}
	for i := range len(name) {
		edge := i == 0 || i == len(name)-1
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case !edge && (c == '-' || c == '.' || c == '/'):
		default:
			return "", false
		}
	}
	return strings.ReplaceAll(name, "/", "__"), true
}

// ourName undoes transitName, and reports false for keys that have no name here.
func ourName(transit string) (string, bool) {
	name := strings.ReplaceAll(transit, "__", "/")
	back, ok := transitName(name)
	return name, ok && back == transit
}

// isMount reports whether s is a path of an engine, fit for a URL as it is.
func isMount(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-./", r)
	})
}
