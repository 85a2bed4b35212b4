# Entry points. 'make run' and 'make test' work from a clean clone; everything made lands in build/ and in
# cargo's target folder.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help deps build tool payload test-guest guest guest-kernel guest-images hostile-payload hostile hostile-mutants churn secret explore noninterference fuzz disks bench bench-micro bench-micro-update run demo soak servers test audit fmt lint clean

TARGET := $(or $(CARGO_TARGET_DIR),target)
BARE := $(TARGET)/aarch64-unknown-none-softfloat/release
TOOL := build/bin/cloister
IMAGE := build/cloister.img
HOSTVISOR := build/hostvisor.bin
# More options for 'make run', e.g. ARGS="--cpus 4 --cpu max".
ARGS ?=
VM ?= examples/debian.toml
# How long 'make soak' and each direction of 'make servers' go on.
LOAD_SECONDS ?= 600

# rust-toolchain.toml names the bare-metal target. Where rustup cannot have it, it must not try again and again.
RUSTUP_AUTO_INSTALL ?= 0
export RUSTUP_AUTO_INSTALL

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1#\2/p' $(MAKEFILE_LIST) | column -t -s '#' 2>/dev/null || \
		sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1: \2/p' $(MAKEFILE_LIST)
	@echo "  make run ARGS='--cpus 4 --cpu max' VM=my-vm.toml: other machines, other VMs ($(TOOL) run --help)"

deps: ## Install what is missing (QEMU, bare-metal toolchain)
	@tools/deps

tool: deps
	@echo "make: building the cloister tool" >&2
	@cargo build -q -p cloister
	@mkdir -p build/bin
	@cmp -s $(TARGET)/debug/cloister $(TOOL) || cp $(TARGET)/debug/cloister $(TOOL)

payload: tool
	@echo "make: building the hostvisor" >&2
	@tools/bare-cargo build -p hostvisor --release
	@$(TOOL) flatten $(BARE)/cloister-hostvisor $(HOSTVISOR)
	@echo "make: building corevisor and boot code around it" >&2
	@CLOISTER_HOSTVISOR=$(abspath $(HOSTVISOR)) CLOISTER_QUIET=1 tools/bare-cargo build -p boot --release
	@$(TOOL) flatten $(BARE)/cloister-payload $(IMAGE)
	@cmp -s $(BARE)/cloister-payload build/cloister.elf || cp $(BARE)/cloister-payload build/cloister.elf

test-guest: tool
	@echo "make: building the bare-metal test guest" >&2
	@CLOISTER_QUIET=1 tools/bare-cargo build -p test-guest --release
	@$(TOOL) flatten $(BARE)/test-guest build/test-guest.bin
	@echo "make: building the program that keeps a secret in a Linux guest" >&2
	@CLOISTER_QUIET=1 tools/bare-cargo build -p secret-keeper --release
	@cmp -s $(BARE)/secret-keeper build/secret-keeper || cp $(BARE)/secret-keeper build/secret-keeper

# The same trusted code around the hostile hostvisor. After 'payload', whose output in $(BARE) it replaces.
hostile-payload: payload
	@echo "make: building the hostile hostvisor and a payload around it" >&2
	@CLOISTER_QUIET=1 tools/bare-cargo build -p hostile-hostvisor --release
	@$(TOOL) flatten $(BARE)/hostile-hostvisor build/hostile.bin
	@CLOISTER_HOSTVISOR=$(abspath build/hostile.bin) CLOISTER_QUIET=1 tools/bare-cargo build -p boot --release
	@$(TOOL) flatten $(BARE)/cloister-payload build/cloister-hostile.img

hostile: hostile-payload ## Attack the corevisor from the hostvisor's place: every attack must be refused
	@cargo test -q -p tests --test hostile -- --test-threads=1 --nocapture

hostile-mutants: hostile-payload test-guest ## Remove each check in turn: an attack must succeed (MUTANTS="name name" for some)
	@cargo run -q -p hostile-mutants -- $(MUTANTS)

# VMs that 'make churn' makes; 'make test' makes 1,000.
ROUNDS ?= 100000

churn: hostile-payload ## Create, run and destroy VMs on four CPUs at once: all comes back (ROUNDS=100000)
	@CLOISTER_CHURN_ROUNDS=$(ROUNDS) cargo test -q -p tests --test churn -- --nocapture

secret: build guest guest-kernel ## Look for a protected Linux's secret in all RAM that the hostvisor reads, virtio included
	@cargo test -q -p tests --test secret -- --test-threads=1 --include-ignored

build: payload test-guest ## Build the tool, the bootable image (build/cloister.img) and the test guest

guest: deps ## Fetch Debian arm64 kernels, pack the initramfs (build/guest/)
	@guest/fetch

guest-kernel: ## Build a guest kernel with CONFIG_ARM_PKVM_GUEST (build/guest/pkvm/; minutes, once)
	@tools/deps kernel
	@guest/kernel

# Disks are written to by the guests that have them: made anew only if what they are made of changes.
IMAGES := build/guest/images
IMAGE_PARTS := guest/image/init guest/lib.sh guest/udhcpc $(wildcard guest/image/services/*)
GUEST_IMAGE = $(TOOL) guest-image --cache build/guest/packages --service hackbench --size 512M

guest-images: guest tool $(IMAGES)/web.img $(IMAGES)/redis.img $(IMAGES)/iperf3.img ## Make Debian disks with Apache, Redis and iperf3 (build/guest/images/)

$(IMAGES)/web.img: SERVICE := apache2
$(IMAGES)/redis.img: SERVICE := redis-server
$(IMAGES)/iperf3.img: SERVICE := iperf3
$(IMAGES)/%.img: $(IMAGE_PARTS) | tool
	@tools/deps images
	@mkdir -p $(IMAGES)
	@$(GUEST_IMAGE) --service $(SERVICE) -o $@

run: payload guest ## Boot a Debian VM under Cloister in QEMU; its console is this terminal
	@$(TOOL) run --vm $(VM) $(ARGS)

demo: payload guest guest-images ## Apache and Redis in two VMs: prints where they are, and how long a first request takes
	@$(TOOL) run --vm examples/web.toml --vm examples/redis.toml --forward 8080:web:80 --forward 6379:redis:6379 \
		--ask http://127.0.0.1:8080/ --ask redis://127.0.0.1:6379 $(ARGS)

soak: build guest guest-kernel guest-images ## Eight Redis VMs answer every second while another VM reboots (LOAD_SECONDS=600)
	@CLOISTER_LOAD_SECONDS=$(LOAD_SECONDS) cargo test -q -p tests --test soak -- --ignored --test-threads=1 --nocapture

servers: build guest guest-kernel guest-images ## Apache, Redis and iperf3 in VMs under load (LOAD_SECONDS=600 for iperf3, each way)
	@tools/deps clients
	@CLOISTER_LOAD_SECONDS=$(LOAD_SECONDS) cargo test -q -p tests --test servers -- --ignored --test-threads=1 --nocapture

test: build guest hostile-payload ## Everything that CI checks
	@tools/check

# The corevisor's own code on a simulated machine: docs/verification.md. 'make test' runs a little of each.
VERIFY := cargo run -q --profile verify -p verify --
FUZZ_SECONDS ?= 600

explore: ## Every interleaving of two CPUs' calls on a small machine (10 minutes at most)
	@$(VERIFY) explore $(ARGS) --least=10000000

noninterference: ## A million hostile sequences on two machines that differ in a secret
	@$(VERIFY) noninterference $(ARGS)

fuzz: ## Fuzz what reads an adversary's bytes (FUZZ_SECONDS each, default 600; TARGETS="name name" for some)
	@tests/fuzz/run $(FUZZ_SECONDS) $(TARGETS)

disks: build guest ## Guests that are destroyed while they write, twenty times, on disks of 1 GB
	@cargo test -q -p tests --test blk -- --test-threads=1 --nocapture --ignored

audit: payload ## Lines and unsafe code of every crate, panics left in the linked payload
	@$(TOOL) audit
	@$(TOOL) panics build/cloister.elf boot/panics.toml

bench: payload test-guest guest ## Measure everything against KVM; hours, and goes on where it was broken off
	@bench/fetch || echo "make: what bench/fetch could not get is left out below" >&2
	@$(TOOL) bench all $(ARGS)

bench-micro: payload test-guest guest ## Measure single operations against KVM; writes bench/REPORT.md (10 to 20 minutes)
	@bench/fetch plugin host || echo "make: what bench/fetch could not get is left out below" >&2
	@$(TOOL) bench micro $(ARGS)

bench-micro-update: payload test-guest ## Write Cloister's figures to bench/micro.toml, with which 'make test' compares
	@$(TOOL) bench micro --update

fmt: ## Format all Rust code
	@cargo fmt --all

lint: build ## Formatting and clippy, for the host and for the bare-metal target
	@tools/check lint

clean: ## Remove everything made, fetched guests included
	cargo clean
	rm -rf build
