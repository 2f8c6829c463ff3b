# The two commands a newcomer needs are `make demo` and `make test`; both set up .venv first.
SHELL := /bin/bash
.DEFAULT_GOAL := help

STACK ?= auto
OUT ?= runs/demo
# Python keeps what it has compiled, even where the surroundings ask it not to (images of containers
# often do): without that each process of a test compiles all libraries anew, which takes seconds.
unexport PYTHONDONTWRITEBYTECODE
# Processes that run the tests side by side.
WORKERS ?= $(shell nproc)
# The first Python that is new enough; override with `make PYTHON=/path/to/python demo`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

BIN := .venv/bin
STAMP := .venv/installed-$(STACK)

.PHONY: help demo test test-all mutants gpu schedulers lint docs setup everything clean
help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12
	@echo "Settings: STACK=auto|cpu|cuda (auto: cuda if nvidia-smi lists a GPU), OUT=$(OUT), PYTHON=python3.x"

demo: $(STAMP)  ## Set up if needed, then run the main job on the built-in synthetic data set
	$(BIN)/seo-rec demo --out $(OUT)

test: $(STAMP)  ## Set up if needed, then run the tests (5 minutes on 2 cores)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow"

test-all: $(STAMP)  ## Set up if needed, then run every test, the long ones too
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

mutants: $(STAMP)  ## Set up if needed, then check that each fault of tests/mutants.py is caught
	$(BIN)/python -m tests.mutants

# Not through .venv's stamp: whatever torch, TorchRec and FBGEMM the machine has are taken.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
GPU_ARGUMENTS ?= --record
gpu:  ## Ten minutes of checks and measurements on this machine's GPUs (GPU_PYTHON=python to use)
	PYTHONPATH=.:kernels $(GPU_PYTHON) -m benchmarks.gpu $(GPU_ARGUMENTS)

schedulers: $(STAMP)  ## Set up if needed, then run the jobs of docs/torchx.md on real schedulers
	SEO_REC_SCHEDULERS=all $(BIN)/python -m pytest -q -m schedulers tests/schedulers tests/distributed

lint: $(STAMP)  ## Style, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)  ## Build the site of docs/ into site/; broken links and references are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

CRITEO := $(foreach i,0 1 2 3 4,data/criteo-$(i))
MORE_L2 := ml-1m-l2-4e-4 ml-1m-l2-8e-4 ml-1m-l2-16e-4 ml-1m-l2-32e-4
everything: $(STAMP)  ## Every method on prepared data/ml-1m and data/criteo-0..4 (many hours; resumable)
	$(BIN)/python -m benchmarks.accuracy.evidence movielens --data data/ml-1m --only ml-1m ml-1m-widths ml-1m-48000 $(MORE_L2) --record
	$(BIN)/python -m benchmarks.accuracy.evidence criteo --data $(CRITEO) --only criteo-80000 criteo-80000-widths --record
	$(BIN)/python -m benchmarks.pages.tables
	$(BIN)/seo-rec report runs/ml-1m runs/ml-1m-widths runs/ml-1m-48000 $(MORE_L2:%=runs/%) runs/criteo-80000 runs/criteo-80000-widths --out runs/every-way.html --force

setup: $(STAMP)  ## Create .venv and install the pinned stack into it

$(STAMP): pyproject.toml setup.py $(wildcard packaging/*.py packaging/*/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none was found; name one with make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	rm -f .venv/installed-*
	$(BIN)/python packaging/install.py $(STACK)
	touch $@

clean:  ## Remove .venv, caches and builds; runs/ and data/ stay
	rm -rf .venv build dist site *.egg-info packaging/*/build packaging/*/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
