// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// Package enrol makes the identity key of a device known to a server, once the server has seen that the key lives in a
// TPM that it knows. It is [Server] on one side and [Enrol] on the other, which does what it needs a TPM for through
// a [Device]. Neither needs TLS: what travels is public, or can be opened by one TPM only.
//
// A device sends its identity, the public area and the certificate of its endorsement key (EK), and the public area of its
// identity key. The server decides whether it knows the EK, by a certificate from the maker of the TPM or by a list, and
// whether that EK may have that identity. It makes a random secret and wraps it for the EK and for the name of the
// identity key (TPM2_MakeCredential), where the name is the hash of the public area, attributes included. The device has its TPM
// open it (TPM2_ActivateCredential), and answers with an HMAC under the secret and a signature of the identity key, each over all
// that was said.
//
// Why this proves that the identity key lives in that TPM:
//   - The secret can only be opened with the private half of the EK. That this is in a TPM is what the maker's
//     certificate, or the one who put it on the list, vouches for: an EK is restricted, so its TPM uses it for nothing
//     else than credentials (and the salt of sessions).
//   - A TPM gives the secret out only while an object of exactly that name is loaded, with its private half, and for who
//     may use that object. It need not be a restricted key: the name binds the attributes, whatever they are.
//   - A TPM loads an object that is fixedTPM, fixedParent and sensitiveDataOrigin only if it has made it itself. The
//     server demands these attributes. So the private half was made in that TPM and cannot leave it.
//   - The signature shows that the device can use the key, and is what MSL will ask of it. What is signed begins with
//     a text that begins no MSL message.
//   - Both answers cover the identity and the challenge, so that they are of use to nobody else and at no other time.
//
// What it does not prove: who sent the message, and what software the device runs. If the server demands a certificate
// only, then whoever owns any TPM of that maker can have any identity that is free. A list says which TPM has which.
package enrol
