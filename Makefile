# What a newcomer types. CI says the same words.
#
#   make demo    a simulated farm on this machine, for one minute
#   make test    every test
#   make check   format, lints, documentation, licences
#   make bench   the figures, as ratios to the floor of this machine
#   make fuzz    looks for inputs that break a rule, FUZZ_SECONDS for each target; needs a nightly compiler and cargo-fuzz

CARGO ?= cargo
SECONDS ?= 60

.PHONY: demo test check bench fuzz setup build

demo: setup
	$(CARGO) run --quiet --locked -p cli --bin loam -- demo --seconds $(SECONDS)

# The binary is built first, because the black-box tests start it.
test: setup build
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  echo "$(CARGO) nextest run --workspace --locked" && $(CARGO) nextest run --workspace --locked; \
	else \
	  echo "$(CARGO) test --workspace --locked" && $(CARGO) test --workspace --locked --lib --bins --tests; \
	fi
	$(CARGO) test --workspace --locked --doc --quiet

build: setup
	$(CARGO) build --locked -p cli --bin loam

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --document-private-items
	$(CARGO) test --locked -p tests --test repository

bench: setup
	$(CARGO) build --release --locked -p cli --bin loam -p tests --bin loam-bench
	target/release/loam-bench --loam target/release/loam --json target/bench.json

# `make test` runs the same functions over the inputs that were found and kept.
fuzz: setup
	fuzz/run

# A Rust toolchain is the one thing loam cannot install for you; a C compiler it can.
setup:
	@command -v $(CARGO) >/dev/null 2>&1 || { echo "cargo is missing: install a Rust toolchain (1.95 or newer) first"; exit 1; }
	@command -v cc >/dev/null 2>&1 || { \
	  echo "a C compiler is missing: installing build-essential"; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -y -q build-essential; \
	  else sudo apt-get update -q && sudo apt-get install -y -q build-essential; fi; }
