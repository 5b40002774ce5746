#!/usr/bin/env bash
# Builds the Vault server that tests use, unless that was done before, and prints where it is. The first time takes
# about five minutes on two cores, and says so on standard error. A vault or bao in PATH is used instead.
set -euo pipefail
cd "$(dirname "$0")"

for command in vault bao; do
	if command -v $command; then exit 0; fi
done
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mslkeep
sum=$(cat go.mod go.sum main.go | sha256sum | cut -c1-16)
binary=$cache/vaultserver-$sum
if [ ! -x "$binary" ]; then
	mkdir -p "$cache"
	exec 9>"$cache/vaultserver.lock"
	flock 9 # several packages are tested at the same time
	if [ ! -x "$binary" ]; then
		echo "building a Vault server for the tests, once: some 1600 packages, 5 minutes on two processors" >&2
		GOFLAGS='' GOWORK=off CGO_ENABLED=0 nice -n 10 go build -v -trimpath -ldflags='-s -w' -o "$binary.new" . 2>&1 |
			awk '{ n++; if ($1 == "#" || / error|cannot|undefined/) print; else if (n % 100 == 0) { print "  " n " packages"; fflush() } }' >&2
		mv "$binary.new" "$binary"
		echo "  done" >&2
	fi
fi
echo "$binary"
