# Needs Python 3.11 to 3.13 with venv, and make; everything else comes from the package index into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTERS ?= 2
LOOSE := --no-warn-unused-ignores $(addprefix --disable-error-code=,assignment operator index union-attr return-value no-any-return var-annotated no-untyped-call list-item arg-type)

.PHONY: help setup demo test test-slow lint lock clean

help:
	@echo "make demo       set everything up and run the main job on scikit-learn's digits (a few minutes)"
	@echo "make test       the tests (under 15 minutes on 2 cores)"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make lint       linter, formatter, type checker, import rules"
	@echo "make lock       resolve the dependencies anew into requirements.lock"

setup: $(VENV)/.installed

# Versions and hashes come from requirements.lock; extras that are not named here stay out although they are locked.
# Bytecode is made now: each stage of a run is a process, and where PYTHONDONTWRITEBYTECODE is set each would compile torch anew.
$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint requirements.lock --editable .
	@touch $@

$(VENV)/.tools: $(VENV)/.installed
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint requirements.lock --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/discern run digits

# By file, and not by test: what a file's tests share (a server, a finished run) is made once.
test: $(VENV)/.tools
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile

test-slow: $(VENV)/.tools
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases $(LOOSE) benchmarks  # names that have moved, and not every type
	$(BIN)/lint-imports

lock: $(VENV)/.installed
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --all-extras --no-emit-index-url -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV)
