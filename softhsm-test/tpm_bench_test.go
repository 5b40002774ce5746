// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package softhsmtest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// BenchmarkTPMSession begins sessions on a device, and sends the TPM the commands that this cannot do without, in turn. What the
// metrics call the device's is the time without that in which it waits for the server's answer. Chips are
// slower than the simulator by far, and what a session costs beside does not depend on that: so the times are taken both with
// the simulator as it is, and with keys' uses as long as chips need for them (chipTimes).
func BenchmarkTPMSession(b *testing.B) {
	for _, speed := range []string{"simulator", "fast-chip", "slow-chip"} {
		b.Run(speed, func(b *testing.B) {
			_, d := newTPMSystem(b, "")
			f := d.fleet()
			f.session(b, "first")
			bare := newBare(b, newChip(b))
			if slow := chipTimes[speed]; slow != nil {
				delay := func(cc tpm2.TPMCC) { time.Sleep(slow[cc]) } // as a chip takes its time
				d.chip.hook(delay)
				bare.chip.hook(delay)
			}
			d.chip.asked()
			var sessions, own, straight []time.Duration
			for b.Loop() {
				server := f.waits.Load()
				began := time.Now()
				f.session(b, fmt.Sprint("store-", len(sessions)))
				sessions = append(sessions, time.Since(began))
				own = append(own, sessions[len(sessions)-1]-time.Duration(f.waits.Load()-server))
				began = time.Now()
				bare.session()
				straight = append(straight, time.Since(began))
			}
			commands := 0
			for _, c := range d.chip.asked() {
				commands += c
			}
			b.ReportMetric(median(sessions)/median(straight), "ratio")
			b.ReportMetric(median(own)/median(straight), "device-ratio")
			b.ReportMetric(median(sessions), "session-ms")
			b.ReportMetric(median(own), "device-ms")
			b.ReportMetric(median(straight), "bare-ms")
			b.ReportMetric(float64(commands)/float64(len(sessions)), "commands/session")
		})
	}
}

// median is in milliseconds. Unlike the mean it does not tell much of what else the machine does.
func median(times []time.Duration) float64 {
	slices.Sort(times)
	return times[len(times)/2].Seconds() * 1e3
}

// BenchmarkTPMReboot restarts all that is on a device, and goes on with its session.
func BenchmarkTPMReboot(b *testing.B) {
	_, d := newTPMSystem(b, "")
	k := d.begin("ECC", rsaExchange, "store", true)
	commands, n := 0, 0
	for b.Loop() {
		k.reboot()
		d.chip.asked()
		k = d.begin("ECC", rsaExchange, "store", false)
		for _, c := range d.chip.asked() {
			commands += c
		}
		n++
	}
	b.ReportMetric(float64(commands)/float64(n), "commands/reboot")
}

// chipTimes is what a signature and a decryption take on the fastest and on a middling chip of those whose times are published; of
// what else they do nothing is known, so that the simulator's times, which are much shorter, stand for it.
var chipTimes = map[string]map[tpm2.TPMCC]time.Duration{
	"fast-chip": {tpm2.TPMCCSign: 23 * time.Millisecond, tpm2.TPMCCRSADecrypt: 70 * time.Millisecond},
	"slow-chip": {tpm2.TPMCCSign: 59 * time.Millisecond, tpm2.TPMCCRSADecrypt: 163 * time.Millisecond},
}
