# edgekiln: set up, demo, test. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
WHEELHOUSE ?= wheelhouse
TORCH_INDEX ?=# e.g. https://download.pytorch.org/whl/cpu; empty takes what pip's own index offers

BIN := $(VENV)/bin
STAMP := $(VENV)/.edgekiln-setup
PIP := $(BIN)/python -m pip --disable-pip-version-check
# one more than there are cores: tests wait for servers, clocks and disks
PROCESSES := $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 4) + 1)')
SIDE_BY_SIDE := --numprocesses $(PROCESSES) --dist loadscope --no-loadscope-reorder
EXTRA_INDEX := $(if $(strip $(TORCH_INDEX)),--extra-index-url $(strip $(TORCH_INDEX)))

.PHONY: help setup demo test test-full wheelhouse lint clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(STAMP) ## virtual environment, packages, llama.cpp built once for this machine

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
		echo "[env-tool-missing] $$($(PYTHON) --version 2>&1) < 3.11, PYTHON=$(PYTHON)"
		echo "Fix: install Python 3.11 or newer, or name one: make setup PYTHON=python3.12"
		exit 4
	} >&2
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	echo "installing packages into $(VENV)"
	$(PIP) install -c constraints.txt $(EXTRA_INDEX) -e ".[flow,train,remote,dev]"
	$(BIN)/python -c 'import torch; print("torch", torch.__version__, "for CUDA", torch.version.cuda) if torch.version.cuda else print("torch", torch.__version__, "for the CPU")'
	$(BIN)/edgekiln toolchain build
	# on the libraries just built: nothing is compiled a second time
	archive="$$($(BIN)/edgekiln toolchain archive)"
	CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" $(PIP) install --quiet -c constraints.txt "$$archive"
	$(PIP) install --quiet -c constraints.txt $(EXTRA_INDEX) -e ".[flow,train,remote,dev,teacher]"
	$(PIP) check
	touch $@

demo: setup ## the whole job on the embedded default
	@$(BIN)/edgekiln run --profile demo

wheelhouse: setup ## every pinned package in ./wheelhouse: mends or sets up a machine without a network
	@mkdir -p "$(WHEELHOUSE)"
	$(PIP) wheel --wheel-dir "$(WHEELHOUSE)" -c constraints.txt $(EXTRA_INDEX) ".[flow,train,remote,dev]" pip setuptools
	archive="$$($(BIN)/edgekiln toolchain archive)"
	# as in setup: without llama.cpp, which is built on the machine itself, from the same archive
	CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" \
		$(PIP) wheel --wheel-dir "$(WHEELHOUSE)" -c constraints.txt $(EXTRA_INDEX) "$$archive" "openai"
	cp "$$archive" constraints.txt "$(WHEELHOUSE)"

lint: setup ## lint, format, types, layers
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint ## the gate: lint, types, house rules, tests
	@$(BIN)/python -m pytest -m "not full" $(SIDE_BY_SIDE)

test-full: lint ## every test with its coverage, and the figures to reach, into tests/benchmarks/RESULTS.md
	@$(PIP) install --quiet -c constraints.txt -e ".[peers]"
	export HYPOTHESIS_PROFILE=full
	status=0
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --cov=core --cov-report=term:skip-covered --cov-fail-under=90 --ignore=tests/benchmarks -o junit_family=xunit1 --junitxml=build/tests.xml || status=$$?
	# figures are measured one after another, with nothing beside them
	$(BIN)/python -m pytest tests/benchmarks -o junit_family=xunit1 --junitxml=build/figures.xml || status=$$?
	$(BIN)/python tests/benchmarks/write_results.py tests/benchmarks/RESULTS.md build/tests.xml build/figures.xml
	exit $$status

clean: ## remove the virtual environment and what tools left; keeps the workspace and the cache
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.*
