#!/bin/sh
# Runs one test again and again until it fails. `make stress` runs it.
#
#   stress.sh PROGRAM NAME [TIMES]
#
#   PROGRAM  a test program of integration/: conformance, daemon, health, …
#   NAME     what the test's name has in it, such as hairpin/nftables/v6
#
# SLUICE_BUSY=N keeps N processors busy meanwhile: most faults of timing need that.
set -eu
cd "$(dirname "$0")/.."

program=$1 name=$2 times=${3:-100}
cargo=${CARGO:-cargo}
log=$(mktemp)
busy=""
# shellcheck disable=SC2086 # a list of process ids
trap 'rm -f "$log"; [ -z "$busy" ] || kill $busy 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

"$cargo" test --locked --test "$program" --no-run
binary=$("$cargo" test --locked --test "$program" --no-run 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')
case $binary in
    /*) ;;
    *) binary=$PWD/$binary ;;
esac

for _ in $(seq 1 "${SLUICE_BUSY:-0}"); do
    (while :; do :; done) &
    busy="$busy $!"
done

run=0
while [ "$run" -lt "$times" ]; do
    run=$((run + 1))
    if ! (cd integration && "$binary" "$name") >"$log" 2>&1; then
        cat "$log"
        echo "$program $name failed in run $run of $times" >&2
        exit 1
    fi
    if grep -q '^test result: ok\. 0 passed' "$log"; then
        echo "no test of $program has \"$name\" in its name, or none can run here:" >&2
        cat "$log" >&2
        exit 2
    fi
done
echo "$program $name passed $times times"
