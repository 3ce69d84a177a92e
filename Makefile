# `make` lists the targets. Each one that needs .venv sets it up first.
PYTHON ?= python3
TRAIN ?= params/train.yaml
BENCHMARK ?= params/benchmark.yaml
CERTIFY ?= params/certify.yaml
CHECKPOINT ?=
NAME ?= report
RESUME ?=
JOBS ?= logical
ARGS ?=
UPGRADE ?=
BIN := .venv/bin
RUFF := $(BIN)/ruff check --quiet && $(BIN)/ruff format --check --quiet
MYPY := $(BIN)/mypy --no-error-summary
# uv reads none of pip's settings, so they are handed on. It separates places by commas.
comma := ,
space := $() $()
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
# Where Python is told to keep no bytecode, every process compiles torch anew: seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help report test lint lab lock
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

report: .venv/ready  ## train, benchmark and certify into reports/ (CHECKPOINT=… measures that, RESUME=… goes on)
	@$(BIN)/fluxttice report --train "$(TRAIN)" --benchmark "$(BENCHMARK)" --certify "$(CERTIFY)" \
		--checkpoint "$(CHECKPOINT)" --name "$(NAME)" --resume "$(RESUME)"

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

# Its root is the repository, so that reports/ can be opened, too. Containers often run it as root.
lab: .venv/ready  ## open the notebooks in JupyterLab (ARGS=… are its options)
	@$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks \
		$$([ "$$(id -u)" != 0 ] || echo --allow-root) $(ARGS)

# For every Python and system that pyproject.toml promises; pins stay unless UPGRADE=--upgrade.
# A CUDA build of torch pins its own libraries; named here, a CPU build would bring them, too.
lock: .venv/ready  ## pin all dependencies in requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 $(UPGRADE) \
		--no-header --no-annotate --quiet --output-file requirements.lock
	@sed -e '/^cuda-/d' -e '/^nvidia-/d' -e '/^triton=/d' -e '/^torch=/s/+cpu//' requirements.lock \
		> requirements.lock.new && mv requirements.lock.new requirements.lock

# ready is written last and names the checkout and the pins that .venv is for. So an interrupted,
# copied, moved or outdated .venv is made afresh. A second set-up at once waits for the first.
# Last, torch is compiled once, and not by each process of a first run.
.venv/ready: FORCE
	@exec 9> .venv.lock; if command -v flock > /dev/null; then flock 9; fi; \
	made_for="$$(pwd -P) $$(cat requirements.lock pyproject.toml | cksum)"; \
	if [ "$$(cat $@ 2> /dev/null)" = "$$made_for" ]; then exit; fi; \
	fail() { echo "$$*" >&2; exit 1; }; \
	setting() { $(BIN)/python -m pip config get "global.$$1" 2> /dev/null | tr '\n' ' '; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || \
		fail "fluxttice needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=python3.11"; \
	$(PYTHON) -c 'import ensurepip' 2> /dev/null || \
		fail "$(PYTHON) lacks ensurepip: apt install python3-venv, or name another: make PYTHON=…"; \
	echo "Setting up .venv (once; about a minute)"; \
	unset PIP_TARGET PIP_PREFIX PIP_ROOT; export PIP_USER=0; \
	rm -rf .venv && $(PYTHON) -m venv .venv && \
	$(BIN)/python -m pip install -qq --disable-pip-version-check "$$(grep ^uv== requirements.lock)" && \
	index="$${UV_DEFAULT_INDEX:-$$(setting index-url)}" && \
	{ [ -z "$$index" ] || export UV_DEFAULT_INDEX="$$index"; } && \
	more="$${PIP_EXTRA_INDEX_URL:-$$(setting extra-index-url)}" && \
	links="$$(setting find-links | tr -s ' ' ,)" && \
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$${links%,}}" UV_INDEX="$$more" UV_INDEX_STRATEGY=unsafe-best-match \
		$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock -e . && \
	$(BIN)/python -c "import fluxttice_core.report.evidence" && echo "$$made_for" > $@ || \
	fail "Set-up failed: the next make starts it afresh"

FORCE:
