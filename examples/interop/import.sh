#!/bin/sh
# Makes a folder, by default run beside this file, with a server and a client, and imports the keys of the vectors'
# fixtures into the agents of both. It needs mslkeep and mslkeep-agent in PATH, or in bin of this repository.
set -eu
umask 077 # agents want their files for themselves
here=$(cd "$(dirname "$0")" && pwd)
to=${1:-$here/run}
PATH=$PATH:$here/../../bin

mkdir "$to"
cp -R "$here/server" "$here/client" "$here/public" "$to"
cp "$here"/keys/*.password "$to/client"

# put TYPE FILE NAME imports a key.
put() {
	mslkeep keys import --agent-config "$to/$who/init.toml" --type "$1" --file "$here/keys/$2" "$3" >/dev/null
}

for who in server client; do
	mslkeep-agent init --config "$to/$who/init.toml" >/dev/null
	# Pre-shared keys by identity. The reference finds those of a profile under the pskid.
	for id in psk-client psk-client2 psk-server; do
		put keyset "$id.hex" "psk/$id"
	done
	put keyset psk-client.hex psk/psk-client-profile1
	put keyset psk-server.hex psk/psk-server-profile1
	put aes-128 psk-nowrap-enc.hex psk/psk-nowrap.enc
	put hmac-sha256 psk-nowrap-mac.hex psk/psk-nowrap.mac
	# Of tokens: a client needs those of master tokens only between peers.
	put keyset msl.hex msl
	put keyset st-default.hex service/st-default
	put keyset st-secure.hex service/st-secure
	# Key pairs.
	put rsa-2048 "rsa-$who-key.pem" "rsa/rsa-$who-key"
	put rsa-2048 "x509-$who.pem" "rsa/x509-$who"
	put ec-p256 "ec-$who-key.pem" "ec/ec-$who-key"
	mslkeep-agent init --config "$to/$who/agent.toml" >/dev/null
done
echo "$to is ready: see README.md"
