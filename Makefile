# Needs Python 3.11 to 3.13 with venv, and make; everything else comes from the package index into
# .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTERS ?= 2
LOOSE := --no-warn-unused-ignores $(addprefix --disable-error-code=,assignment operator index union-attr return-value no-any-return var-annotated no-untyped-call list-item arg-type)

.PHONY: help setup demo test test-slow lint lock clean

help:
	@echo "make demo       install, then run the chain on cluttered digits, from image to report (minutes)"
	@echo "make setup      install into .venv; with CPU=1 the CPU-only builds of torch and FAISS (about 5 GB less)"
	@echo "make test       the tests (under 15 minutes on 2 cores)"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make lint       linter, formatter, type checker, import rules"
	@echo "make lock       resolve the dependencies anew into requirements.lock"

# CPU=1 belongs to every target: it installs other builds, and remembers them apart.
ifeq ($(CPU),1)
INSTALLED := $(VENV)/.installed-cpu
TOOLS := $(VENV)/.tools-cpu
BUILDS := --torch-backend cpu --override requirements-cpu.txt
FAISS := faiss-cpu==$(shell sed -n 's/^faiss-cpu==\([^ ]*\).*/\1/p' requirements.lock)
REFUSED := || { echo "The CPU-only builds could not be installed, for the reason above: they come from PyTorch's own index. 'make setup' installs the builds of the package index, which run without a GPU too and take about 5 GB more." >&2; exit 1; }
else
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.tools
endif
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint requirements.lock $(BUILDS)

setup: $(INSTALLED)

# Versions and hashes come from requirements.lock; extras that are not named here stay out although
# they are locked. Bytecode is made now: each stage of a run is a process, and where
# PYTHONDONTWRITEBYTECODE is set each would compile torch anew.
$(INSTALLED): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(INSTALL) --editable . $(FAISS) $(REFUSED)
	@touch $@

$(TOOLS): $(INSTALLED)
	$(INSTALL) --editable '.[dev]' $(FAISS) $(REFUSED)
	@touch $@

demo: setup
	$(BIN)/discern run cluttered-digits

# By file, and not by test: what a file's tests share (a finished run) is made once. In the order of
# pyproject.toml's testpaths, long files first: with the default order, by number of tests, one of
# them would run last, and alone.
test: $(TOOLS)
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder

test-slow: $(TOOLS)
	$(BIN)/python -m pytest -m slow

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases $(LOOSE) benchmarks  # names that have moved, and not every type
	$(BIN)/lint-imports

lock: $(INSTALLED)
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --extra lmdb --extra dask --extra ray --extra metrics --extra dev --no-emit-index-url -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV)
