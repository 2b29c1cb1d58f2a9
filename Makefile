# Start with `make demo` and `make test`. Both build .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests mostly compile, on one core each. --dist=loadfile keeps a file in one process, which compiles each program once.
PARALLEL := --numprocesses=auto --dist=loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest -q $(PARALLEL)
# Most tests are compiled with little effort, those marked `optimized` as users compile, which takes processes of their own.
QUICKLY := JDISTILL_TEST_COMPILER=quick $(PYTEST)
OPTIMIZED = $(shell grep -rl mark.optimized tests --include='test_*.py')
export JAX_PLATFORMS ?= cpu

.PHONY: help venv demo test quick exhaustive lint types contracts unit fuzz parity recorded format clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'

venv: $(STAMP)  ## build .venv with the tested versions, if it is missing or older than pyproject.toml

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,test]"
	@touch $@

demo: venv  ## distil, verify and export a search model for your Python libraries; three to seven minutes on two cores
	$(BIN)/jdistill demo

test: venv lint types contracts unit  ## everything CI runs

quick: venv  ## the fast tests only
	$(QUICKLY) -m "not slow and not exhaustive"
	$(PYTEST) -m "optimized and not slow and not exhaustive" $(OPTIMIZED)

exhaustive: venv  ## the test cases that `make test` skips; before a release
	$(PYTEST) -m exhaustive

unit: venv
	$(QUICKLY) -m "not exhaustive"
	$(PYTEST) -m "optimized and not exhaustive" $(OPTIMIZED)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck tpu/*.sh scripts/*.sbatch .ci/run

types: venv
	$(BIN)/basedpyright

contracts: venv
	$(BIN)/lint-imports

fuzz: venv  ## damaged recipes, data files and model folders: no traceback, exit codes 0 and 2 only; up to three minutes
	$(BIN)/python -m tests.fuzz

parity: venv  ## compare every loss, encoder and head with its reference, and record the references
	$(BIN)/python -m tests.losses.parity
	$(BIN)/python -m tests.student.parity
	$(BIN)/python -m tests.losses.recorded --write
	$(BIN)/python -m tests.student.recorded --write

recorded:  ## compare losses and encoders with the recorded references; PYTHON may have any jax, and no torch
	$(PYTHON) -m tests.losses.recorded
	$(PYTHON) -m tests.student.recorded

format: venv  ## sort imports and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and the outputs of runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis demo runs stores
