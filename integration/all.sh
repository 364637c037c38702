#!/bin/sh
# All tests. `make test` runs it. What needs another kernel runs in the guest beside the others, which wait
# more than they compute; what it printed follows at the end.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

# Nothing may be built while the guest runs programs from here.
$cargo test --locked --no-run
log=$(mktemp)
suites=""
# The guest ends with its suites, and these with the tests.
trap '[ -z "$suites" ] || kill "$suites" 2>/dev/null || true; rm -f "$log"' EXIT
trap 'exit 130' INT TERM
integration/guest/suites >"$log" 2>&1 &
suites=$!
failed=""
$cargo test --locked --no-fail-fast || failed="$failed tests"
wait "$suites" || failed="$failed guest"
suites=""
cat "$log"
$cargo test --locked -p integration --features otel --test traces || failed="$failed traces"
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
