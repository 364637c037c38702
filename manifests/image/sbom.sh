#!/bin/sh
# Writes what is in an image: a bill of materials in CycloneDX 1.5 (JSON), from what cargo says that the
# program is linked from.
#
#   sbom.sh PROGRAM ARCH NAME VERSION [PACKAGES]
#
#   PROGRAM   the static program, for its digest    ARCH  amd64 or arm64
#   PACKAGES  a list of Debian packages that tools.sh wrote
#
# SOURCE_DATE_EPOCH dates it. The same input gives the same bytes.
set -eu
export LC_ALL=C

program=$1 arch=$2 name=$3 version=$4 packages=${5:-}
case $arch in
    amd64) triple=x86_64-unknown-linux-gnu glibc=libc6-dev ;;
    arm64) triple=aarch64-unknown-linux-gnu glibc=libc6-dev-arm64-cross ;;
    *) echo "sbom.sh: $arch is neither amd64 nor arm64" >&2; exit 2 ;;
esac
[ "$(dpkg --print-architecture 2>/dev/null || echo amd64)" != "$arch" ] || glibc=libc6-dev
created=$(date -u -d "@${SOURCE_DATE_EPOCH:-0}" +%Y-%m-%dT%H:%M:%SZ)
digest=$(sha256sum "$program" | cut -d' ' -f1)

# name, version, licence of each crate that is linked in, ours left out.
crates() {
    "${CARGO:-cargo}" tree --locked --package sluice --edges normal,no-proc-macro --target "$triple" \
        --prefix none --format '{p}|{l}|' |
        sed 's/ (\*)$//' | grep -v '(/' | sort -u |
        sed 's/^\([^ ]*\) v\([^| ]*\)[^|]*|\([^|]*\)|$/\1|\2|\3/; s/ *\/ */ OR /'
}

# name, version and digest of each crate, of the lock file.
digests() {
    awk -F'"' '/^name = /{n=$2} /^version = /{v=$2} /^checksum = /{print n "|" v "|" $2}' Cargo.lock
}

component() {
    purl=$(echo "$4" | sed 's/+/%2B/g')
    printf ',\n    {"type": "library", "name": "%s", "version": "%s", "purl": "%s"' "$1" "$2" "$purl"
    [ -z "$3" ] || printf ', "licenses": [{"expression": "%s"}]' "$3"
    [ -z "${5:-}" ] || printf ', "hashes": [{"alg": "SHA-256", "content": "%s"}]' "$5"
    printf '}'
}

components() {
    digests=$(digests)
    crates | while IFS='|' read -r crate release licence; do
        digest=$(echo "$digests" | grep -F "$crate|$release|" | grep "^$crate|" | cut -d'|' -f3)
        component "$crate" "$release" "$licence" "pkg:cargo/$crate@$release" "$digest"
    done
    rust=$("${RUSTC:-rustc}" --version | cut -d' ' -f2)
    component rust-std "$rust" "MIT OR Apache-2.0" "pkg:generic/rust-std@$rust"
    if release=$(dpkg-query --show --showformat='${Version}' "$glibc" 2>/dev/null); then
        component glibc "$release" LGPL-2.1-or-later "pkg:deb/debian/$glibc@$release?arch=$arch"
    fi
    if [ -n "$packages" ]; then
        while read -r package release; do
            component "$package" "$release" "" "pkg:deb/debian/$package@$release?arch=$arch"
        done <"$packages"
    fi
}

cat <<JSON
{
  "bomFormat": "CycloneDX",
  "specVersion": "1.5",
  "version": 1,
  "metadata": {
    "timestamp": "$created",
    "component": {
      "type": "container", "name": "$name", "version": "$version", "licenses": [{"expression": "Apache-2.0"}]
    }
  },
  "components": [
JSON
printf '    {"type": "application", "name": "sluice", "version": "%s", "licenses": [{"expression": "Apache-2.0"}], "hashes": [{"alg": "SHA-256", "content": "%s"}]}' \
    "$version" "$digest"
components
printf '\n  ]\n}\n'
