#!/bin/sh
# Installs the Debian packages that the demo and the tests need, or says which ones are missing.
# With the word `guest`: those that tests under another kernel need besides; they are left out without them.
# With the word `guard`: those that `make bench-guard` needs besides.
# With SLUICE_INSTALL=no in the environment it installs nothing, and says what is missing.
set -eu

# command -> package that has it
needed="cc:gcc nft:nftables ip:iproute2 iptables:iptables"
must=1
if [ "${1:-}" = guard ]; then
    needed="valgrind:valgrind"
elif [ "${1:-}" = guest ]; then
    needed="qemu-system-x86_64:qemu-system-x86 ipvsadm:ipvsadm"
    must=0
fi

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

if [ "$(id -u)" -ne 0 ] || [ "${SLUICE_INSTALL:-}" = no ]; then
    echo "missing packages:$missing" >&2
    echo "install them with: sudo apt-get update && sudo apt-get install -y$missing" >&2
    exit $must
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing packages:$missing; this machine has no apt-get, install them by other means" >&2
    exit $must
fi
echo "installing Debian packages with apt-get:$missing (SLUICE_INSTALL=no prevents it)" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } || exit $must
