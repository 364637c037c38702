#!/bin/sh
# Installs the Debian packages that the demo and the tests need, or says which ones are missing.
set -eu

# command -> package that has it
needed="cc:gcc nft:nftables ip:iproute2 iptables:iptables"

missing=""
for pair in $needed; do
    command=${pair%%:*}
    package=${pair#*:}
    # sbin may be missing from the path of an ordinary user
    if ! PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null 2>&1; then
        missing="$missing $package"
    fi
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "missing packages:$missing" >&2
    echo "install them with: sudo apt-get update && sudo apt-get install -y$missing" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing packages:$missing; this machine has no apt-get, install them by other means" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing
