# The few verbs of this project; everything behind them is cargo.
#   make demo    build, and show on a terminal what a Service does (root, or user namespaces)
#   make test    all tests: tables, then packets in network namespaces
#   make guest   run a command under another kernel: make guest CMD='ipvsadm -Ln' (docs/guest.md)
#   make check   format, lints, documentation
# On Debian, `demo` and `test` install the packages that they need when run as root.

CARGO ?= cargo

.PHONY: demo test guest check build setup

demo: setup
	$(CARGO) build --release --locked
	./target/release/sluice demo

test: setup
	@integration/setup.sh guest
	$(CARGO) test --locked
	integration/guest/suites

CMD ?= sh
export CMD
guest:
	@integration/setup.sh guest
	@integration/guest/run sh -c "$$CMD"

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) test --locked --test layering

build:
	$(CARGO) build --release --locked

setup:
	@integration/setup.sh
