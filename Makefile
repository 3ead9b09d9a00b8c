# Every target works in the virtual environment $(VENV): the active one, or else .venv, made on demand.
PYTHON ?= python3.11
VENV ?= $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
INSTALLED := $(VENV)/.graftwork-installed
DEVELOPED := $(VENV)/.graftwork-developed

.DEFAULT_GOAL := help
.PHONY: help install develop quickstart test test-slow test-faults test-fuzz conformance lint types layers docs check bench

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1: /'

install: $(INSTALLED)  ## make the virtual environment and install graftwork and the demo into it

develop: $(DEVELOPED)  ## and what tests, linters and benchmarks need

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[demo,report]'
	touch $@

$(DEVELOPED): $(INSTALLED)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[demo,noise,report,dev]'
	touch $@

quickstart: $(INSTALLED)  ## fit two tasks on real data and print what was found
	$(VENV)/bin/graftwork fit recipes/quickstart.yaml --overwrite

# Two processes of one thread each: two of two threads would wait for each other.
test: $(DEVELOPED)  ## the test suite
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

test-slow: $(DEVELOPED)  ## the tests that take longer
	$(VENV)/bin/python -m pytest -m slow

test-faults: $(DEVELOPED)  ## kill runs, fill their disk, crowd their output; compare what they end with
	$(VENV)/bin/python tests/faults/run.py

test-fuzz: $(DEVELOPED)  ## more than 2,000 broken and hostile recipes, structures, data files and checkpoints
	$(VENV)/bin/python -m pytest -m "" tests/fuzz --hypothesis-profile=fuzz

conformance: $(DEVELOPED)  ## PEFT's own test suite on this method (fetches PEFT's source distribution)
	$(VENV)/bin/python tests/conformance/run.py

lint: $(DEVELOPED)  ## ruff: rules and format
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

types: $(DEVELOPED)  ## mypy --strict
	$(VENV)/bin/python -m mypy

layers: $(DEVELOPED)  ## import-linter: which package may import which
	$(VENV)/bin/lint-imports --no-logo --no-cache

docs: $(DEVELOPED)  ## the site, in docs/_build; a warning is an error
	COLUMNS=100 NO_COLOR=1 HF_HUB_OFFLINE=1 $(VENV)/bin/python -m sphinx -q -E -W --keep-going -b html docs docs/_build

check: lint types layers docs test  ## what CI runs

bench: $(DEVELOPED)  ## cost of a step, as a table and one line of JSON
	$(VENV)/bin/python benchmarks/step_cost.py
