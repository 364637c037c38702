#!/bin/sh
# Writes an image archive: an OCI layout that is a `docker save` archive too, with one layer for the
# program and, if a directory of tools is given, one for those. Needs tar, gzip and sha256sum, neither
# a container runtime nor root. The same input gives the same bytes.
#
#   build.sh PROGRAM ARCH REFERENCE ARCHIVE [TOOLS]
#
#   PROGRAM    the static program              ARCH     amd64 or arm64
#   REFERENCE  the image's name, name:tag      TOOLS    a directory made by tools.sh
#
# SOURCE_DATE_EPOCH dates every file, REVISION names the commit in the labels.
set -eu
export LC_ALL=C
umask 022

program=$1 arch=$2 reference=$3 archive=$4 tools=${5:-}
case $reference in
    *:*) ;;
    *) echo "build.sh: $reference has no tag; write it like localhost/sluice:0.1.0" >&2; exit 2 ;;
esac
version=${reference##*:}
epoch=${SOURCE_DATE_EPOCH:-0}
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
layout=$work/layout
blobs=$layout/blobs/sha256
mkdir -p "$blobs"

digest() {
    sha256sum "$1" | cut -d' ' -f1
}

# One byte sequence for one tree, whoever builds it and when.
pack() {
    # shellcheck disable=SC2046 # names that this script chose, without spaces
    tar --create --format=ustar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner \
        --directory="$1" -- $(ls -A "$1")
}

# Moves a file to its place among the blobs and prints `DIGEST SIZE`.
blob() {
    name=$(digest "$1")
    size=$(stat -c %s "$1")
    mv "$1" "$blobs/$name"
    echo "$name $size"
}

diff_ids="" layers="" layer_files=""
add_layer() {
    pack "$1" >"$work/layer.tar"
    diff_ids="$diff_ids${diff_ids:+, }\"sha256:$(digest "$work/layer.tar")\""
    gzip --no-name --best "$work/layer.tar"
    # shellcheck disable=SC2046 # two words
    set -- $(blob "$work/layer.tar.gz")
    layers="$layers${layers:+, }{\"mediaType\": \"application/vnd.oci.image.layer.v1.tar+gzip\", \"digest\": \"sha256:$1\", \"size\": $2}"
    layer_files="$layer_files${layer_files:+, }\"blobs/sha256/$1\""
}

labels() {
    cat <<JSON
"org.opencontainers.image.title": "sluice",
      "org.opencontainers.image.description": "A Kubernetes service proxy in place of kube-proxy",
      "org.opencontainers.image.licenses": "Apache-2.0",
      "org.opencontainers.image.version": "$version",
      "org.opencontainers.image.revision": "${REVISION:-unknown}",
      "org.opencontainers.image.created": "$created"
JSON
}

if [ -n "$tools" ]; then
    add_layer "$tools"
fi

root=$work/root
mkdir -p "$root/usr/local/bin"
cp "$program" "$root/usr/local/bin/kube-proxy"
chmod 755 "$root/usr/local/bin/kube-proxy"
ln -s kube-proxy "$root/usr/local/bin/sluice"
add_layer "$root"

cat >"$work/config.json" <<JSON
{
  "architecture": "$arch",
  "os": "linux",
  "created": "$created",
  "config": {
    "Entrypoint": ["/usr/local/bin/kube-proxy"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "WorkingDir": "/",
    "Labels": {
      $(labels)
    }
  },
  "rootfs": {"type": "layers", "diff_ids": [$diff_ids]}
}
JSON
# shellcheck disable=SC2046 # two words
set -- $(blob "$work/config.json")
config=$1
cat >"$work/manifest.json" <<JSON
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:$config", "size": $2},
  "layers": [$layers]
}
JSON
# shellcheck disable=SC2046 # two words
set -- $(blob "$work/manifest.json")
# containerd names the image by its own annotation; the other one is the layout's, for skopeo.
cat >"$layout/index.json" <<JSON
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": [{
    "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:$1", "size": $2,
    "platform": {"architecture": "$arch", "os": "linux"},
    "annotations": {
      "io.containerd.image.name": "$reference",
      "org.opencontainers.image.ref.name": "$version"
    }
  }]
}
JSON
echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
echo "[{\"Config\": \"blobs/sha256/$config\", \"RepoTags\": [\"$reference\"], \"Layers\": [$layer_files]}]" \
    >"$layout/manifest.json"

mkdir -p "$(dirname "$archive")"
pack "$layout" >"$archive.new"
mv "$archive.new" "$archive"
echo "$archive: $reference linux/$arch, $(stat -c %s "$archive") bytes, manifest sha256:$1"
