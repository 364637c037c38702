#!/bin/sh
# What cargo-deny says of the dependencies by the rules of .deny.toml. Where it is not installed, or its database
# of advisories cannot be reached, this says what is left out. Everything but advisories is checked without
# it as well: `cargo test --test layering`.
#   SLUICE_ADVISORIES=must  fails where advisories cannot be looked at
set -eu
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
left_out() {
    echo "advisories of dependencies are left out: $1" >&2
    [ "${SLUICE_ADVISORIES:-}" != must ] || exit 1
    exit 0
}

"$cargo" deny --version >/dev/null 2>&1 ||
    left_out "cargo-deny is not installed (cargo install --locked cargo-deny)"
"$cargo" deny --locked check licenses bans sources
"$cargo" deny fetch db >/dev/null 2>&1 || left_out "their database cannot be reached"
"$cargo" deny --locked check --disable-fetch advisories
