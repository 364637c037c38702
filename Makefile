# The few verbs of this project; everything behind them is cargo.
#   make demo    build, and show on a terminal what a Service does (root, or user namespaces)
#   make test    all tests: tables, then packets in network namespaces
#   make guest   run a command under another kernel: make guest CMD='ipvsadm -Ln' (docs/guest.md)
#   make bench   measure all modes side by side (15 minutes): make bench BENCH='--services 10,1000,10000'
#   make check   format, lints, documentation, rules of the repository, dependencies
#   make stress  one test until it fails: make stress TEST=conformance CASE=hairpin/nftables TIMES=500 BUSY=2
#   make bench-guard   instruction counts against accepted ones (docs/benchmarks-micro.md);
#                UPDATE=1 accepts them
#   make image   an image archive for `kind load image-archive` and `ctr images import`, without
#                Docker; ARCH=arm64 cross-builds, see manifests/image/README.md
#   make image-iptables   the same with iptables' programs, for the iptables mode
#   make sbom, chart, index, checksums   the other parts of a release; make release has all of them, for both
#                architectures, in target/artifacts (docs/releasing.md)
# On Debian, `demo`, `test` and `bench` install the packages that they need when run as root, and name them
# first; with SLUICE_INSTALL=no they only say what is missing.

CARGO ?= cargo

ARCH ?= $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,amd64)
IMAGE ?= localhost/sluice
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
TRIPLE = $(if $(filter arm64,$(ARCH)),aarch64,x86_64)-unknown-linux-gnu
CARGO_HOME ?= $(HOME)/.cargo

.PHONY: demo test stress guest bench bench-guard check deny build setup dist image image-iptables \
	sbom chart index checksums release push

demo: setup
	$(CARGO) build --locked -p sluice -p sluice-lab
	./target/debug/sluice-lab demo

test: setup
	@integration/setup.sh guest
	@CARGO="$(CARGO)" integration/all.sh

TEST ?= conformance
CASE ?=
TIMES ?= 100
BUSY ?= 0
stress: setup
	@CARGO="$(CARGO)" SLUICE_BUSY=$(BUSY) integration/stress.sh "$(TEST)" "$(CASE)" "$(TIMES)"

CMD ?= sh
export CMD
guest:
	@integration/setup.sh guest
	@integration/guest/run sh -c "$$CMD"

BENCH ?=
bench: setup build
	@integration/setup.sh guest
	@integration/bench/run $(BENCH)

check: deny
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) test --locked --features integration/otel --test layering

# ADVISORIES=must fails where the database of advisories cannot be reached.
ADVISORIES ?=
deny:
	@CARGO="$(CARGO)" SLUICE_ADVISORIES=$(ADVISORIES) integration/deny.sh

UPDATE ?=
export UPDATE
bench-guard: setup
	@integration/setup.sh guard
	$(CARGO) bench --locked --bench guard

build:
	$(CARGO) build --release --locked -p sluice -p sluice-lab

setup:
	@integration/setup.sh

# A static program without paths of this machine in it. The target is named because a static one
# cannot be built together with the macros that the compiler loads.
dist:
	RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=/sluice --remap-path-prefix=$(CARGO_HOME)=/cargo" \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
	$(CARGO) build --locked --profile dist --target $(TRIPLE) -p sluice

EPOCH = SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0)
PACK = REVISION=$$(git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown) \
	$(EPOCH) manifests/image/build.sh target/$(TRIPLE)/dist/sluice $(ARCH)

image: dist
	$(PACK) $(IMAGE):$(VERSION) target/image/sluice-$(ARCH).tar

image-iptables: dist
	manifests/image/tools.sh $(ARCH) target/image/tools-$(ARCH)
	$(PACK) $(IMAGE):$(VERSION)-iptables target/image/sluice-iptables-$(ARCH).tar target/image/tools-$(ARCH)

# What a release has, besides the images: docs/releasing.md.
ARTIFACTS = target/artifacts
ARCHES ?= amd64 arm64
PROGRAM = target/$(TRIPLE)/dist/sluice
NAMED = $(ARTIFACTS)/sluice-$(VERSION)

# Bills of materials of the images that `image` and `image-iptables` made.
sbom:
	@mkdir -p $(ARTIFACTS)
	$(EPOCH) CARGO="$(CARGO)" manifests/image/sbom.sh $(PROGRAM) $(ARCH) $(IMAGE) $(VERSION) >$(NAMED)-$(ARCH).cdx.json
	$(EPOCH) CARGO="$(CARGO)" manifests/image/sbom.sh $(PROGRAM) $(ARCH) $(IMAGE) $(VERSION)-iptables \
		target/image/tools-$(ARCH).packages >$(NAMED)-iptables-$(ARCH).cdx.json

# What `helm package` writes, without helm, and the same bytes each time.
chart:
	@mkdir -p $(ARTIFACTS)
	tar --create --format=ustar --sort=name --mtime="@$$(git log -1 --format=%ct)" --owner=0 --group=0 --numeric-owner \
		--mode=u=rwX,go=rX --directory=manifests/helm sluice | gzip --no-name --best >$(NAMED).tgz

# The images of all architectures as one, for registries.
index:
	$(EPOCH) manifests/image/join.sh $(IMAGE):$(VERSION) $(NAMED)-oci.tar \
		$(foreach arch,$(ARCHES),target/image/sluice-$(arch).tar)
	$(EPOCH) manifests/image/join.sh $(IMAGE):$(VERSION)-iptables $(NAMED)-iptables-oci.tar \
		$(foreach arch,$(ARCHES),target/image/sluice-iptables-$(arch).tar)

checksums:
	cd $(ARTIFACTS) && rm -f SHA256SUMS && sha256sum -- sluice-* >SHA256SUMS && cat SHA256SUMS

release:
	rm -rf $(ARTIFACTS)
	mkdir -p $(ARTIFACTS)
	for arch in $(ARCHES); do $(MAKE) image image-iptables sbom ARCH=$$arch || exit 1; done
	$(MAKE) chart index
	for arch in $(ARCHES); do \
		cp target/image/sluice-$$arch.tar $(NAMED)-$$arch.tar && \
		cp target/image/sluice-iptables-$$arch.tar $(NAMED)-iptables-$$arch.tar || exit 1; \
	done
	$(MAKE) checksums

# To a registry, with skopeo: make push IMAGE=registry.example/net/sluice
push:
	skopeo copy --all oci-archive:$(NAMED)-oci.tar docker://$(IMAGE):$(VERSION)
	skopeo copy --all oci-archive:$(NAMED)-iptables-oci.tar docker://$(IMAGE):$(VERSION)-iptables
