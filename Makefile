TARGET := $(or $(CARGO_TARGET_DIR),target)
BUF := npx --yes @bufbuild/buf@1.75.0
BENCH := lora_step coreset online_er

.PHONY: help setup reference stores build test lint proto-check proto-golden chaos sim fuzz bench results-text results-replay results-cifar results-gmc results-selection demo
.NOTPARALLEL:

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*##/  make \1 \t/p' Makefile | expand -t 16

setup:  ## Stage libtorch (once per user: a 545 MB download; LIBTORCH is respected)
	@python3 scripts/setup.py

reference:  ## Stage what tests compare with: Python's PEFT and MiniLM (once per user: an 800 MB download, 3.4 GB on disk)
	@python3 -B scripts/reference.py

stores:  ## Stage what tests talk to: MinIO, moto, Azurite, grpcurl (once per user: about twelve minutes, 0.5 GB on disk)
	@python3 -B scripts/stores.py

build: setup  ## Release binaries: perennial, perenniald, perennial-worker
	cargo build --release -p perennial -p perennial-worker

test: setup  ## Build everything, then run every test
	python3 -B scripts/test_setup.py
	cargo build --workspace
	cargo test --workspace
	python3 -B scripts/test_python.py

lint: setup  ## rustfmt and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

proto-check:  ## Lint the protocol, and compare it with the golden one, which older peers speak
	$(BUF) lint proto
	$(BUF) breaking proto --against proto/golden.binpb

proto-golden:  ## Make the protocol as it is the golden one; with each release
	$(BUF) build proto --exclude-source-info -o proto/golden.binpb

chaos: setup  ## Kill the daemon at random moments of runs: same bits, nothing lost: make chaos KILLS=1000
	cargo build --workspace
	PERENNIAL_KILLS=$(or $(KILLS),20) cargo test --workspace --test kill_anything -- --nocapture

sim: setup  ## Control, ingest and registry in simulated worlds that fail: make sim SEEDS=2000; PERENNIAL_SIM_SEED=N make sim tells of one
	PERENNIAL_SIM_SEEDS=$(or $(SEEDS),2000) cargo test --workspace --test sim -- --nocapture

fuzz:  ## Search for inputs that break a reader: make fuzz MINUTES=10 (for each), make fuzz ONLY=parquet
	python3 -B scripts/fuzz.py --minutes $(or $(MINUTES),10) $(addprefix --only ,$(ONLY))

bench: setup reference  ## Ours against others', in turns: make bench, make bench BENCH=lora_step ARGS="--only vit-f32"
	set -e; for bench in $(BENCH); do cargo bench --workspace --bench $$bench -- $(ARGS); done

results-text: build reference  ## The figures on text streams (hours): make results-text OUT=folder
	python3 -B scripts/results_text.py $(or $(OUT),$(TARGET)/results-text)

results-replay: build  ## The figures on replay and its kin (some 20 minutes): make results-replay OUT=folder
	python3 -B scripts/results_replay.py $(or $(OUT),$(TARGET)/results-replay)

results-cifar: build  ## The figures on CIFAR-10 by a ResNet: make results-cifar OUT=folder ARGS="--rows 10000"
	python3 -B scripts/results_cifar.py $(or $(OUT),$(TARGET)/results-cifar) $(ARGS)

results-gmc: build  ## The figures on gradient-matching coresets: make results-gmc OUT=folder ARGS="--rows 12000"
	python3 -B scripts/results_gmc.py $(or $(OUT),$(TARGET)/results-gmc) $(ARGS)

results-selection: build  ## The figures on selective backprop: make results-selection OUT=folder ARGS="--rows 60000"
	python3 -B scripts/results_selection.py $(or $(OUT),$(TARGET)/results-selection) $(ARGS)

demo: build  ## Run the demo: make demo ARGS="..."
	$(TARGET)/release/perennial demo $(ARGS)
