# Two commands do everything: `make report` and `make test`. Each sets up .venv first if need be.
PYTHON ?= python3
TRAIN ?= params/train.yaml
BENCHMARK ?= params/benchmark.yaml
CERTIFY ?= params/certify.yaml
CHECKPOINT ?=
NAME ?= report
RESUME ?=
JOBS ?= logical
PLAN ?= params/evidence.yaml
SCHEDULER ?=
RUN ?=
UPGRADE ?=
BIN := .venv/bin
RUFF := $(BIN)/ruff check --quiet && $(BIN)/ruff format --check --quiet
MYPY := $(BIN)/mypy --no-error-summary
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Where Python is told to keep no bytecode, every process compiles torch anew: seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help report open test lint bench batch reproduce evidence controls power picture lab keygen lock
.DEFAULT_GOAL := report

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

report: .venv/ready  ## train, benchmark and certify into reports/ (CHECKPOINT=… measures that, RESUME=… goes on)
	@$(BIN)/fluxttice report --train "$(TRAIN)" --benchmark "$(BENCHMARK)" --certify "$(CERTIFY)" \
		--checkpoint "$(CHECKPOINT)" --name "$(NAME)" --resume "$(RESUME)"

open: .venv/ready  ## show all runs in the browser
	@$(BIN)/fluxttice open

# Tests side by side, a file each, and one thread each: two threads on a shared core wait in turns.
# Freed memory stays with its process: glibc would map and clear every large array anew.
test: .venv/ready  ## lint, unit tests, and the notebooks under nbval (JOBS=… side by side)
	@$(RUFF)
	@$(MYPY) & types=$$!; OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 \
		$(BIN)/python -m pytest notebooks lib/tests --nbval-lax --nbval-current-env \
		--numprocesses $(JOBS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder; \
		tests=$$?; wait $$types && exit $$tests

lint: .venv/ready  ## ruff over code and notebooks, mypy over the library
	@$(RUFF) && $(MYPY)

bench: .venv/ready  ## speed, as ratios within one run
	@$(BIN)/python lib/benchmarks/speed.py

batch: .venv/ready  ## run every job of PLAN=… side by side (SCHEDULER=tcp://host:8786: on a Dask cluster)
	@$(BIN)/fluxttice batch "$(PLAN)" --scheduler "$(SCHEDULER)"

reproduce: .venv/ready  ## repeat the run in the folder RUN=…, and compare every number
	@$(BIN)/fluxttice reproduce "$(RUN)"

evidence: .venv/ready  ## the batch of params/evidence.yaml, into reports/evidence.csv and a page
	@$(BIN)/fluxttice evidence --scheduler "$(SCHEDULER)"

controls: .venv/ready  ## measure what stands beside every model, into reports/controls.csv
	@$(BIN)/fluxttice controls

power: .venv/ready  ## which defects the gates of certification find, into reports/power.csv
	@$(BIN)/fluxttice power

picture: .venv/ready  ## README's picture, taken from the published explore.html by Chromium
	@$(BIN)/python lib/browser.py

lab: .venv/ready  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab --notebook-dir=notebooks

keygen: .venv/ready  ## make a signing key in ~/.config/fluxttice, never overwriting one
	@$(BIN)/fluxttice keygen

# For every Python and system that pyproject.toml promises; pins stay unless UPGRADE=--upgrade.
# A CUDA build of torch pins its own libraries; named here, a CPU build would bring them, too.
lock: .venv/ready  ## pin all dependencies in requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 $(UPGRADE) \
		--no-header --no-annotate --quiet --output-file requirements.lock
	@sed -e '/^cuda-/d' -e '/^nvidia-/d' -e '/^triton=/d' -e '/^torch=/s/+cpu//' requirements.lock \
		> requirements.lock.new && mv requirements.lock.new requirements.lock

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) lib/set_up.py
