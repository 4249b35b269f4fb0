# Everything a person or a machine does with this repository. Needs make and Python >= 3.11 on Linux or macOS, nothing
# else: each target that runs something creates .venv itself. Written for make 3.81 and BSD tools (macOS).

PYTHON ?=
SECONDS ?=
MINUTES ?= 10
SEEDS ?= 1000
QUICK ?=
ARGS ?=
JOBS ?= 3
# Compiled modules are kept even where a shell's environment says no: tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help setup demo test lint format lock schemas simulate chaos bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo [SECONDS=60]   the whole thing, live on this machine; Ctrl-C ends it"
	@echo "make test [ARGS=...]     lint, then all tests, JOBS=3 files at once (ARGS goes to pytest)"
	@echo "make lint                format, lint, types, import contracts, schemas"
	@echo "make format              let ruff rewrite what it can"
	@echo "make simulate [SEEDS=N]  the simulator, one seed after the other, until one fails"
	@echo "make chaos [MINUTES=N]   real processes and a real Kafka, killed and frozen at random, then the proof"
	@echo "make bench [QUICK=1]     figures beside a plain loop without diff, state and transactions; Linux only"
	@echo "make setup               create .venv; PYTHON=... chooses the interpreter"
	@echo "make lock                compile requirements.lock again from pyproject.toml"
	@echo "make schemas             write the event contract to schemas/"
	@echo "make clean               remove .venv, caches and build output"

setup: $(VENV)/.installed

demo: setup
	@$(BIN)/bridge demo $(if $(SECONDS),--seconds $(SECONDS))

# Files are handed out whole, because some have fixtures that take long, and in the order of tests/conftest.py. Lint goes
# first, so that pytest's summary is the last thing that is printed.
test: lint
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bridge schema export --check schemas

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Universal: one file for Linux and macOS and every supported Python. Keeps what is pinned unless UPGRADE=1.
lock: setup
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate --extra dev --extra sandbox \
	    $(if $(UPGRADE),--upgrade) --output-file requirements.lock pyproject.toml

simulate: setup
	@$(BIN)/python -m bridge.sandbox.simulate --seeds $(SEEDS)

chaos: setup
	@$(BIN)/python -m tests.e2e.chaos --minutes $(MINUTES)

bench: setup
	@$(BIN)/python -m tests.bench $(if $(QUICK),--quick)

schemas: setup
	$(BIN)/bridge schema export schemas

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps, in order: an interpreter, the locked dependencies, the project itself. An interrupted step leaves no stamp
# and is done again.
$(VENV)/.created:
	@set -e; found=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3 python); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        found=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "No usable Python found. Needed: Python 3.11 or newer with its 'venv' module (Debian, Ubuntu: apt" >&2; \
	    echo "install python3-venv). Installed elsewhere? make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$found" --version 2>&1) ..."; \
	"$$found" -m venv --clear $(VENV); \
	touch $@

$(VENV)/.locked: $(VENV)/.created requirements.lock
	@echo "Installing the locked dependencies (once; a minute or so) ..."
	@$(PIP) --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
