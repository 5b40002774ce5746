// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"github.com/mslkeep/mslkeep/internal/secret"
	"github.com/mslkeep/mslkeep/internal/secretfile"
	"github.com/mslkeep/mslkeep/providers"
)

const (
	// firstDelay and maxDelay bound the time between two attempts to find a token that has gone.
	firstDelay = 100 * time.Millisecond
	maxDelay   = time.Second
)

// A link is one log-in. Sessions and handles of one link mean nothing to the next. Only witness changes.
type link struct {
	number     uint64 // counts links
	slot       uint
	info       p11.TokenInfo
	owner      p11.SessionHandle // stays open, because the log-in ends with the last session
	sessions   int               // most beside owner
	mechanisms map[uint]uint     // flags (CKF_…)
	witness    atomic.Uint64     // handle of the first key that was found, which tells whether the token is still there
}

// can reports whether the token says that it has a mechanism for a use.
func (l *link) can(mechanism, flag uint) bool { return l.mechanisms[mechanism]&flag == flag }

// renew gets a new link in place of old, unless somebody has done so already. With whole, the module is
// started again and the token looked for; else there is a new log-in.
func (p *Provider) renew(old *link, whole bool) error {
	p.life.Lock()
	defer p.life.Unlock()
	switch {
	case p.refuse != nil:
		return p.refuse
	case p.link != old:
		return nil
	case p.link == nil && time.Now().Before(p.again):
		return p.failed
	}
	l, err := p.connect(old, whole)
	if err != nil && !whole && p.refuse == nil {
		l, err = p.connect(old, true)
	}
	p.link = l
	if err != nil {
		p.delay = min(maxDelay, max(firstDelay, 2*p.delay))
		p.failed, p.again = err, time.Now().Add(p.delay)
		return err
	}
	p.delay = 0
	return nil
}

// connect makes a link. The caller holds life.
func (p *Provider) connect(old *link, whole bool) (*link, error) {
	m := p.module
	l := new(link)
	if whole {
		m.call("C_Finalize", (*p11.Ctx).Finalize) // it may not have been started
		if err := m.call("C_Initialize", func(c *p11.Ctx) error { return c.Initialize() }); err != nil {
			return nil, away("starting the PKCS #11 module", providers.Because(providers.CauseDriver, err))
		}
		slot, err := p.findSlot()
		if err != nil {
			return nil, err
		}
		l.slot = slot
	} else {
		l.slot = old.slot
		m.call("C_CloseAllSessions", func(c *p11.Ctx) error { return c.CloseAllSessions(l.slot) }) // what is left of them
	}
	var err error
	if l.info, err = p.tokenInfo(l.slot); err != nil {
		return nil, away("reading what the token is", err)
	}
	if !p.token.matches(&l.info) {
		return nil, failure(providers.Transient, "finding the token", errors.New("there is another one in its slot"))
	}
	err = m.call("C_OpenSession", func(c *p11.Ctx) (err error) {
		l.owner, err = c.OpenSession(l.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		return err
	})
	if err != nil {
		return nil, away("opening a session with the token", err)
	}
	if err := p.login(l); err != nil {
		return nil, err
	}
	if err := p.probe(l); err != nil {
		return nil, away("asking the token for its mechanisms", err)
	}
	l.sessions = maxSessions
	if n := l.info.MaxRwSessionCount; n > 1 && n <= maxSessions { // 0 and all ones: not told
		l.sessions = int(n) - 1
	}
	p.next++
	l.number = p.next
	p.token.serial = l.info.SerialNumber // another token of that name gets neither the PIN nor work
	return l, nil
}

// away is an error while there is no link: it may be over later.
func away(op string, err error) error { return failure(providers.Transient, op, err) }

func (p *Provider) tokenInfo(slot uint) (info p11.TokenInfo, err error) {
	err = p.module.call("C_GetTokenInfo", func(c *p11.Ctx) error { info, err = c.GetTokenInfo(slot); return err })
	return info, err
}

// findSlot finds the slot of the one token that the configuration names. Slots have no numbers that stay.
func (p *Provider) findSlot() (uint, error) {
	const op = "finding the token"
	var slots []uint
	err := p.module.call("C_GetSlotList", func(c *p11.Ctx) (err error) { slots, err = c.GetSlotList(true); return err })
	if err != nil {
		return 0, away(op, err)
	}
	found, slot := 0, uint(0)
	for _, s := range slots {
		info, err := p.tokenInfo(s)
		if err == nil && p.token.matches(&info) {
			found, slot = found+1, s
		}
	}
	switch found {
	case 0:
		return 0, failure(providers.Transient, op, providers.Because(providers.CauseDevice, fmt.Errorf("no token in %d slots is %s; list them with pkcs11-tool --module … -L", len(slots), p.token)))
	case 1:
		return slot, nil
	}
	return 0, failure(providers.Denied, op, providers.Because(providers.CauseDevice, fmt.Errorf("%d tokens are %s; add serial= to the URI", found, p.token)))
}

func (u *uri) matches(info *p11.TokenInfo) bool {
	same := func(want, have string) bool { return want == "" || want == have }
	return info.Flags&p11.CKF_TOKEN_INITIALIZED != 0 && same(u.token, info.Label) && same(u.serial, info.SerialNumber) &&
		same(u.manufacturer, info.ManufacturerID) && same(u.model, info.Model)
}

// login logs in. When the PIN was refused, no other attempt will be made.
func (p *Provider) login(l *link) error {
	const op = "logging in to the token"
	if l.info.Flags&p11.CKF_LOGIN_REQUIRED == 0 && p.token.pinSource == "" {
		return nil
	}
	source, err := secretfile.OpenReference(p.token.pinSource)
	if err != nil {
		return failure(providers.Locked, op, providers.Because(providers.CauseSecretSource, fmt.Errorf("pin-source: %w", err)))
	}
	defer source.Close()
	if err := lockPIN(source); err != nil {
		return away(op, err)
	}
	if l.info, err = p.tokenInfo(l.slot); err != nil {
		return away(op, err)
	}
	if err := p.mayTry(l.info.Flags); err != nil {
		return failure(providers.Locked, op, providers.Because(providers.CauseSecretUntried, err)) // it may be tried when somebody has seen to the token
	}
	pin, err := secretfile.ReadLine(source, maxPIN) // for each log-in, and not kept
	if err != nil {
		return failure(providers.Locked, op, providers.Because(providers.CauseSecretSource, fmt.Errorf("pin-source: %w", err)))
	}
	defer pin.Wipe()
	b := secret.Reveal(pin)
	err = p.module.call("C_Login", func(c *p11.Ctx) error {
		return c.Login(l.owner, p11.CKU_USER, unsafe.String(&b[0], len(b))) // no copy that could not be wiped
	})
	if errors.Is(err, p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)) {
		return nil
	}
	if err != nil && classify(err, useOther) == classPermanent {
		code := permanentCode(err)
		if code == providers.Locked {
			err = providers.Because(providers.CauseSecretRefused, err)
		}
		p.refuse = failure(code, op, err)
		return p.refuse
	}
	if err != nil {
		return away(op, err)
	}
	return nil
}

var (
	errPINLocked    = errors.New("the token has locked the PIN; its security officer can set a new one")
	errPINFinalTry  = errors.New("one more wrong PIN would lock the token; log in by hand once (pkcs11-tool --login --list-objects)")
	errPINCountLow  = errors.New("the PIN was wrong the last time; log in by hand once (pkcs11-tool --login --list-objects), or allow it to be tried again")
	errPINNotThere  = errors.New("the token has no user PIN yet")
	errPINElsewhere = errors.New("the token takes its PIN by a reader of its own, which is not supported")
)

// mayTry tells from the flags of the token whether the PIN may be tried.
func (p *Provider) mayTry(flags uint) error {
	switch {
	case flags&p11.CKF_USER_PIN_LOCKED != 0:
		return errPINLocked
	case flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return errPINFinalTry
	case flags&p11.CKF_USER_PIN_COUNT_LOW != 0 && !p.config.TryPINAgain:
		return errPINCountLow
	case flags&p11.CKF_USER_PIN_INITIALIZED == 0:
		return errPINNotThere
	case flags&p11.CKF_PROTECTED_AUTHENTICATION_PATH != 0:
		return errPINElsewhere
	}
	return nil
}

// probe asks for the mechanisms.
func (p *Provider) probe(l *link) error {
	var list []*p11.Mechanism
	err := p.module.call("C_GetMechanismList", func(c *p11.Ctx) (err error) { list, err = c.GetMechanismList(l.slot); return err })
	if err != nil {
		return err
	}
	l.mechanisms = make(map[uint]uint)
	for _, m := range list {
		if !wanted[m.Mechanism] {
			continue
		}
		err := p.module.call("C_GetMechanismInfo", func(c *p11.Ctx) error {
			info, err := c.GetMechanismInfo(l.slot, []*p11.Mechanism{m})
			l.mechanisms[m.Mechanism] = info.Flags
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, m := range p.config.Without {
		for _, mechanism := range mechanismsOf[m] {
			delete(l.mechanisms, mechanism)
		}
	}
	return nil
}

// mechanismsOf names those that can be done without.
var mechanismsOf = map[providers.Mechanism][]uint{
	providers.AESCBC: {p11.CKM_AES_CBC_PAD}, providers.AESGCM: {p11.CKM_AES_GCM}, providers.RSAOAEP: {p11.CKM_RSA_PKCS_OAEP},
	providers.RSAPKCS1: {p11.CKM_RSA_PKCS, p11.CKM_SHA256_RSA_PKCS}, providers.ECDSAP256: {p11.CKM_ECDSA},
}

// wanted are the mechanisms that this package uses.
var wanted = map[uint]bool{
	p11.CKM_AES_KEY_GEN: true, p11.CKM_AES_CBC_PAD: true, p11.CKM_AES_GCM: true, p11.CKM_AES_KEY_WRAP: true,
	p11.CKM_GENERIC_SECRET_KEY_GEN: true, p11.CKM_SHA256_HMAC: true,
	p11.CKM_RSA_PKCS_KEY_PAIR_GEN: true, p11.CKM_RSA_PKCS: true, p11.CKM_SHA256_RSA_PKCS: true, p11.CKM_RSA_PKCS_OAEP: true,
	p11.CKM_EC_KEY_PAIR_GEN: true, p11.CKM_ECDSA: true, p11.CKM_ECDH1_DERIVE: true,
}
