# What a newcomer types. CI says the same words.
#
#   make demo         a simulated farm on this machine, for one minute
#   make test         every test, and 5,000 schedules of the simulated world
#   make check        format, lints, documentation, licences, whether docs/conformance.md is up to date
#   make bench        the figures, as ratios to the floor of this machine
#   make sim          schedules of the simulated world: make sim SEEDS=0..20000
#   make bugs         plants each bug and runs schedules until it is found
#   make fuzz         looks for inputs that break a rule; needs a nightly compiler and cargo-fuzz
#   make conformance  the tests of each row of the conformance matrix; writes docs/conformance.md

CARGO ?= cargo
SECONDS ?= 60
SEEDS ?= 0..2000
# The tests kill the server at named points. No other target builds such a binary.
FOR_TESTS = --features cli/crash-points

.PHONY: demo test check bench fuzz sim bugs conformance setup

demo: setup
	$(CARGO) run --quiet --locked -p cli --bin loam -- demo --seconds $(SECONDS)

# The binary is built first, because the black-box tests start it; of the whole workspace, so that the tests share what is built.
test: setup
	$(CARGO) build --workspace --locked $(FOR_TESTS) --bin loam
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  echo "$(CARGO) nextest run --workspace --locked $(FOR_TESTS)" && $(CARGO) nextest run --workspace --locked $(FOR_TESTS); \
	else \
	  echo "$(CARGO) test --workspace --locked $(FOR_TESTS)" && $(CARGO) test --workspace --locked $(FOR_TESTS) --lib --bins --tests; \
	fi
	$(CARGO) test --workspace --locked $(FOR_TESTS) --doc --quiet
	$(MAKE) --no-print-directory sim SEEDS=0..5000

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --document-private-items
	$(CARGO) test --locked -p tests --test repository
	$(CARGO) run --quiet --locked -p tests --bin loam-conformance -- --check

bench: setup
	$(CARGO) build --release --locked -p cli --bin loam -p tests --bin loam-bench
	target/release/loam-bench --loam target/release/loam --json target/bench.json

# `make test` runs the same functions over the inputs that were found and kept.
fuzz: setup
	fuzz/run

sim: setup
	$(CARGO) run --release --quiet --locked -p world --bin loam-sim -- run --seeds $(SEEDS)

bugs: setup
	$(CARGO) run --release --quiet --locked -p world --features planted --bin loam-sim -- bugs

conformance: setup
	$(CARGO) build --workspace --locked $(FOR_TESTS) --bin loam --bin loam-conformance
	"$${CARGO_TARGET_DIR:-target}/debug/loam-conformance" $(FOR_TESTS)

# A Rust toolchain is the one thing loam cannot install for you; a C compiler it can.
setup:
	@command -v $(CARGO) >/dev/null 2>&1 || { echo "cargo is missing: install a Rust toolchain (1.95 or newer) first"; exit 1; }
	@command -v cc >/dev/null 2>&1 || { \
	  echo "a C compiler is missing: installing build-essential"; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -y -q build-essential; \
	  else sudo apt-get update -q && sudo apt-get install -y -q build-essential; fi; }
