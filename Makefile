# Two commands do everything: `make report` and `make test`. Each sets up .venv first if need be.
PYTHON ?= python3
TRAIN ?= params/train.yaml
BENCHMARK ?= params/benchmark.yaml
CERTIFY ?= params/certify.yaml
CHECKPOINT ?=
NAME ?= report
BIN := .venv/bin
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: report test lint lab lock bench evidence keygen
.DEFAULT_GOAL := report

report: .venv/ready
	@$(BIN)/fluxttice report --train "$(TRAIN)" --benchmark "$(BENCHMARK)" --certify "$(CERTIFY)" \
		--checkpoint "$(CHECKPOINT)" --name "$(NAME)"

test: .venv/ready
	@$(BIN)/python -m pytest lib/tests notebooks --nbval-lax --nbval-current-env

bench: .venv/ready
	@$(BIN)/python -m fluxttice_core.bench

evidence: .venv/ready
	@$(BIN)/python -m fluxttice_core.evidence

lint: .venv/ready
	@$(BIN)/ruff check lib && $(BIN)/ruff format --check lib

lab: .venv/ready
	@$(BIN)/jupyter lab --notebook-dir=notebooks

# A signing key in ~/.config/fluxttice, never overwritten; certification signs with the one that
# FLUXTTICE_SIGNING_KEY names.
keygen: .venv/ready
	@$(BIN)/fluxttice keygen

lock: .venv/ready
	@$(BIN)/uv pip compile pyproject.toml --extra dev --no-header --no-annotate --quiet \
		| sed 's/+cpu$$//' > requirements.lock

# uv installs in seconds what pip takes minutes for; its own pin is in the lock like all others.
.venv/ready: requirements.lock pyproject.toml
	@echo "Setting up .venv (once; about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fluxttice needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^uv==' requirements.lock)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock --editable .
	@touch $@
