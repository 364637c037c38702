# The few verbs of this project; everything behind them is cargo.
#   make demo    build, and show on a terminal what a Service does (root, or user namespaces)
#   make test    all tests: tables, then packets in network namespaces
#   make check   format, lints, documentation
# On Debian, `demo` and `test` install the packages that they need when run as root.

CARGO ?= cargo

.PHONY: demo test check build setup

demo: setup
	$(CARGO) build --release --locked
	./target/release/sluice demo

test: setup
	$(CARGO) test --locked

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) test --locked --test layering

build:
	$(CARGO) build --release --locked

setup:
	@integration/setup.sh
