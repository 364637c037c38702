#!/bin/sh
# Joins image archives of several architectures, as build.sh writes them, into one OCI archive whose image is
# an index of them: what registries call a multi-arch image. Needs tar and sha256sum. The same input gives
# the same bytes.
#
#   join.sh REFERENCE OUT ARCHIVE…
set -eu
export LC_ALL=C
umask 022

reference=$1 out=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
layout=$work/layout
mkdir -p "$layout"

manifests=""
for archive in "$@"; do
    rm -rf "$work/one"
    mkdir "$work/one"
    tar --extract --file="$archive" --directory="$work/one"
    cp -r "$work/one/blobs" "$layout/"
    # What stands between the brackets of "manifests", in one line and without names, which the index has.
    one=$(tr -d '\n' <"$work/one/index.json" |
        sed 's/.*"manifests": \[//; s/\]}*$//; s/, *"annotations": {[^}]*}//; s/  */ /g')
    manifests="$manifests${manifests:+, }$one"
done

cat >"$work/index" <<JSON
{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [$manifests]}
JSON
digest=$(sha256sum "$work/index" | cut -d' ' -f1)
size=$(stat -c %s "$work/index")
mv "$work/index" "$layout/blobs/sha256/$digest"
cat >"$layout/index.json" <<JSON
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": [{
    "mediaType": "application/vnd.oci.image.index.v1+json", "digest": "sha256:$digest", "size": $size,
    "annotations": {
      "io.containerd.image.name": "$reference",
      "org.opencontainers.image.ref.name": "${reference##*:}"
    }
  }]
}
JSON
echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"

mkdir -p "$(dirname "$out")"
# shellcheck disable=SC2046 # names that this script chose, without spaces
tar --create --format=ustar --sort=name --mtime="@${SOURCE_DATE_EPOCH:-0}" --owner=0 --group=0 --numeric-owner \
    --directory="$layout" -- $(ls -A "$layout") >"$out.new"
mv "$out.new" "$out"
echo "$out: $reference, index sha256:$digest"
