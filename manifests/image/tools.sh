#!/bin/sh
# Collects the programs of iptables, both variants, with the libraries that they load and nothing
# else, from Debian's packages: for the image of nodes that run the iptables mode.
#
#   tools.sh ARCH DIRECTORY
#
# Names and versions of the packages go to DIRECTORY.packages, for the bill of materials (sbom.sh).
#
# Needs apt-get with fresh lists (`apt-get update`), but no root; for another architecture than this
# machine's, also `dpkg --add-architecture ARCH` before the update.
set -eu
umask 022

arch=$1 root=$2
packages="iptables libxtables12 libip4tc2 libip6tc2 libmnl0 libnftnl11 libc6"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/all"
for package in $packages; do
    if ! (cd "$work" && apt-get -qq download "$package:$arch"); then
        echo "tools.sh: cannot download $package:$arch; run apt-get update first" >&2
        exit 1
    fi
done 2>"$work/errors" || { cat "$work/errors" >&2; exit 1; }
for file in "$work"/*.deb; do
    dpkg-deb --extract "$file" "$work/all"
done

rm -rf "$root"
mkdir -p "$root"
for file in "$work"/*.deb; do
    dpkg-deb --show --showformat='${Package} ${Version}\n' "$file"
done >"$root.packages"
# Extensions for ebtables and arptables are left out: no rule that an IP packet meets has them. All
# others stay, because rules of other programs are listed, too.
(cd "$work/all" && find . \( \
    -path './usr/sbin/*-multi' -o -path './usr/sbin/ip*tables-*' ! -name '*-apply' ! -name '*translate' \
    -o -path '*/xtables/libxt_*.so' -o -path '*/xtables/libip*t_*.so' \
    -o -name 'libxtables.so*' -o -name 'libip4tc.so*' -o -name 'libip6tc.so*' -o -name 'libmnl.so*' \
    -o -name 'libnftnl.so*' -o -name 'libc.so.6' -o -name 'ld-linux*' \
    -o -path './usr/share/doc/*/copyright' \) ! -type d -print0) >"$work/wanted"
(cd "$work/all" && tar --create --null --files-from="$work/wanted") | tar --extract --directory="$root"
# Newer releases have everything below /usr, where the programs do not look for their loader.
for directory in lib lib64; do
    if [ ! -e "$root/$directory" ] && [ -d "$root/usr/$directory" ]; then
        ln -s "usr/$directory" "$root/$directory"
    fi
done
