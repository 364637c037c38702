#!/bin/sh
# All tests. `make test` runs it. What needs another kernel runs in the guest beside the others, which wait
# more than they compute; what it printed follows at the end.
set -eu
cd "$(dirname "$0")/.."
# With everything that can be built in: one daemon for all tests, those of traces too.
SLUICE_TEST="${CARGO:-cargo} test --locked --features integration/otel"
export SLUICE_TEST

# Nothing may be built while the guest runs programs from here.
$SLUICE_TEST --no-run
log=$(mktemp)
suites=""
# The guest ends with its suites, and these with the tests.
trap '[ -z "$suites" ] || kill "$suites" 2>/dev/null || true; rm -f "$log"' EXIT
trap 'exit 130' INT TERM
integration/guest/suites >"$log" 2>&1 &
suites=$!
failed=""
$SLUICE_TEST --no-fail-fast || failed="$failed tests"
wait "$suites" || failed="$failed guest"
suites=""
cat "$log"
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
