// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package providers

// What a provider at the other end of the pipe can do beyond using keys, one by one.
type (
	generates struct{ *remote }
	imports   struct{ *remote }
	rotates   struct{ *remote }
	destroys  struct{ *remote }
)

// abilities are what Describe has advertised.
type abilities struct{ generates, imports, rotates, destroys bool }

// withAbilities returns r with the methods that it has advertised, and no others.
func withAbilities(r *remote, a abilities) Provider {
	switch a {
	case abilities{true, false, false, false}:
		return struct {
			*remote
			generates
		}{r, generates{r}}
	case abilities{false, true, false, false}:
		return struct {
			*remote
			imports
		}{r, imports{r}}
	case abilities{true, true, false, false}:
		return struct {
			*remote
			generates
			imports
		}{r, generates{r}, imports{r}}
	case abilities{false, false, true, false}:
		return struct {
			*remote
			rotates
		}{r, rotates{r}}
	case abilities{true, false, true, false}:
		return struct {
			*remote
			generates
			rotates
		}{r, generates{r}, rotates{r}}
	case abilities{false, true, true, false}:
		return struct {
			*remote
			imports
			rotates
		}{r, imports{r}, rotates{r}}
	case abilities{true, true, true, false}:
		return struct {
			*remote
			generates
			imports
			rotates
		}{r, generates{r}, imports{r}, rotates{r}}
	case abilities{false, false, false, true}:
		return struct {
			*remote
			destroys
		}{r, destroys{r}}
	case abilities{true, false, false, true}:
		return struct {
			*remote
			generates
			destroys
		}{r, generates{r}, destroys{r}}
	case abilities{false, true, false, true}:
		return struct {
			*remote
			imports
			destroys
		}{r, imports{r}, destroys{r}}
	case abilities{true, true, false, true}:
		return struct {
			*remote
			generates
			imports
			destroys
		}{r, generates{r}, imports{r}, destroys{r}}
	case abilities{false, false, true, true}:
		return struct {
			*remote
			rotates
			destroys
		}{r, rotates{r}, destroys{r}}
	case abilities{true, false, true, true}:
		return struct {
			*remote
			generates
			rotates
			destroys
		}{r, generates{r}, rotates{r}, destroys{r}}
	case abilities{false, true, true, true}:
		return struct {
			*remote
			imports
			rotates
			destroys
		}{r, imports{r}, rotates{r}, destroys{r}}
	case abilities{true, true, true, true}:
		return struct {
			*remote
			generates
			imports
			rotates
			destroys
		}{r, generates{r}, imports{r}, rotates{r}, destroys{r}}
	}
	return r
}
