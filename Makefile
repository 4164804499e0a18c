# Every target makes what it needs in .venv, from the pinned constraints.
PYTHON ?= python3
BIN := .venv/bin
DEMO_OUT ?= demo-results

.PHONY: demo test lint types layers check bench clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Steelyard needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all]' --group dev
	touch $@

demo: .venv/installed
	$(BIN)/steelyard compare --out $(DEMO_OUT)

test: .venv/installed
	$(BIN)/pytest --numprocesses 2

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/mypy

layers: .venv/installed
	$(BIN)/lint-imports

check: lint types layers test

.venv/bench: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --group bench
	touch $@

bench: .venv/bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv $(DEMO_OUT) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
