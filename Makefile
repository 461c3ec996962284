# The commands of the project; each one sets up what it needs first. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv

# CPU wheels of torch: from where pip is told to look, else from PyTorch's own index.
FIND_LINKS := $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
TORCH := $(if $(FIND_LINKS),$(addprefix --find-links ,$(FIND_LINKS)),--torch-backend cpu)
# Compiling now costs seconds once; every process of a run would otherwise do it at its start where it may not write.
INSTALL := $(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps $(TORCH)
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --no-emit-find-links --no-header $(TORCH)

# Programs that a policy writes run in bubblewrap; only root can install it.
SANDBOX := command -v bwrap >/dev/null || \
  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq bubblewrap >/dev/null; } || \
  echo "note: bubblewrap is not installed, so code tasks would run in plain processes; try: apt install bubblewrap"

READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev

ARGS ?=

.PHONY: help train compare setup test test-images check fmt bench bench-verifier bench-credit bench-learner bench-step bench-proxies bench-checkpoint bench-trl lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(READY)  ## set up and train on this machine; ARGS="seed=2 steps=50" changes the configuration
	@$(BIN)/python -m launch.train experiment=laptop $(ARGS)

compare: $(READY)  ## DelTA, its rivals and its ablations, five seeds each (about an hour), then the table
	@$(BIN)/python -m launch.train experiment=compare $(ARGS)
	@$(BIN)/python -m launch.sweep sweep=runs/compare

setup: $(DEV)  ## set up everything and run nothing

test: $(DEV)  ## all tests, the slow ones too
	@$(MAKE) --no-print-directory lint
	@$(call RUN_TESTS,not ray and not alone,ray or alone)

check: $(DEV) lint  ## lint, types and the fast tests
	@$(call RUN_TESTS,not slow and not ray and not alone,not slow and not ray and alone)

test-images: $(DEV)  ## build the CPU image on a home-made base and train in it (root, buildah, mmdebstrap, network)
	@DELTA_TEST_IMAGES=1 $(BIN)/python -m pytest -m image $(ARGS)

# Tests $(1) several at a time, a file per process; then tests $(2) one by one. Exit code 5: ARGS left none of them.
define RUN_TESTS
  status=0; \
  $(BIN)/python -m pytest -m "$(1)" --numprocesses auto --dist loadfile $(ARGS) || [ $$? = 5 ] || status=1; \
  $(BIN)/python -m pytest -m "$(2)" $(ARGS) || [ $$? = 5 ] || status=1; \
  exit $$status
endef

.PHONY: lint
lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile.*

fmt: $(DEV)  ## format the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: bench-verifier bench-credit bench-learner bench-checkpoint  ## the verifier, what credit costs, speed and memory of the learner, checkpoints, as JSON

bench-verifier: $(READY)  ## verdicts per second: math beside plain math-verify, code, and a flood with hanging answers
	@$(BIN)/python -m tests.bench.math_verdicts
	@$(BIN)/python -m tests.bench.code_verdicts
	@$(BIN)/python -m tests.bench.flood

bench-credit: $(READY)  ## cost of credit: none, ours, and 3 + K forward passes, for 10^4 to 10^6 tokens
	@$(BIN)/python -m tests.bench.credit_cost $(ARGS)

bench-learner: $(READY)  ## tokens per second of the learner's passes, packed and padded; peak memory of the LM head
	@$(BIN)/python -m tests.bench.learner_passes $(ARGS)

bench-step: $(READY)  ## seconds per phase of a whole training step, with and without DelTA, as JSON
	@$(BIN)/python -m tests.bench.step $(ARGS)

bench-proxies: $(READY)  ## how the coefficients of the two proxies agree, on rollouts of a model, as JSON
	@$(BIN)/python -m tests.bench.proxies $(ARGS)

bench-checkpoint: $(READY)  ## what a checkpoint of 100 M parameters costs: stall, size, writing, resume, as JSON
	@$(BIN)/python -m tests.bench.checkpoints $(ARGS)

bench-trl: $(READY) $(VENV)-trl/.ready  ## side by side with TRL's GRPOTrainer, as JSON
	@$(BIN)/python -m tests.bench.against_trl --trl-python $(VENV)-trl/bin/python $(ARGS)

lock: $(UV)  ## compile the locks again
	$(COMPILE) --override requirements/overrides.txt requirements/cpu.in -o requirements/cpu.txt
	$(UV) pip compile --quiet --python-version 3.12 --python-platform x86_64-manylinux_2_28 --no-emit-find-links --no-header \
	  --extra gpu setup.py -o requirements/gpu.txt
	$(COMPILE) requirements/dev.in -o requirements/dev.txt
	$(COMPILE) requirements/trl.in -o requirements/trl.txt

clean:  ## remove the environments
	rm -rf $(VENV) $(VENV)-trl

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: found $$($(PYTHON) --version), expected Python 3.11 or newer; try: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "error: no virtual environment could be made; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

# The stamps are made last, so an installation that was cut short is done again.
$(READY): requirements/cpu.txt setup.py | $(UV)
	@echo "setting up $(VENV) (a few minutes on the first run)"
	@$(SANDBOX)
	@$(INSTALL) -r requirements/cpu.txt
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.txt $(READY)
	@$(INSTALL) -r requirements/dev.txt
	@touch $@

$(VENV)-trl/.ready: requirements/trl.txt | $(UV)
	@$(PYTHON) -m venv $(VENV)-trl
	@$(UV) pip install --quiet --python $(VENV)-trl/bin/python --no-deps $(TORCH) -r requirements/trl.txt
	@touch $@
