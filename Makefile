# Every target makes what it needs in .venv, from the pinned constraints.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_OUT ?= demo-results
DOCS_OUT ?= docs/_build/html

LOWEST := .venv-lowest/bin
GPU := .venv-gpu/bin
GPU_OUT ?= gpu-results
PEERS ?= liger-kernel quack-kernels cut-cross-entropy

.PHONY: demo test slow lowest lint types layers check docs pictures notebooks bench gpu clean

.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Steelyard needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(INSTALL) pip
	$(INSTALL) torch
	$(INSTALL) --editable '.[compare]'
	touch $@

.venv/dev: .venv/demo
	$(INSTALL) --editable '.[all]' --group dev
	touch $@

# The oldest torch and NumPy that pyproject.toml promises.
.venv-lowest/done: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/pip install --quiet --disable-pip-version-check --requirement tests/lowest.txt
	$(LOWEST)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

.venv/docs: .venv/demo
	$(INSTALL) --editable '.[all]' --group docs
	touch $@

.venv/bench: .venv/dev
	$(INSTALL) --group bench
	touch $@

demo: .venv/demo
	$(BIN)/steelyard compare --out $(DEMO_OUT)

test: .venv/dev
	$(BIN)/pytest --numprocesses 2 -m 'not slow'

slow: .venv/dev
	$(BIN)/pytest --numprocesses 2 -m slow --timeout 1800

# What meets most of torch: modules, errors, tracers, PyTorch's own inputs.
lowest: .venv-lowest/done
	$(LOWEST)/pytest --numprocesses 2 tests/test_modules.py tests/test_errors.py tests/test_tracing.py \
		tests/test_pytorch_inputs.py tests/test_worked_values.py tests/test_compat.py \
		tests/test_linear.py

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/dev
	$(BIN)/mypy

layers: .venv/dev
	$(BIN)/lint-imports

check: lint types layers test

docs: .venv/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs $(DOCS_OUT)
	@echo "Written: $(DOCS_OUT)/index.html"

pictures: .venv/docs
	$(BIN)/python docs/pictures.py

notebooks: .venv/dev
	$(BIN)/python examples/notebooks/make.py

bench: .venv/bench
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.labels

# On a bare machine with a driver and the torch that fits it, which PYTHON has: nothing here replaces
# that. A peer that does not install is left out.
.venv-gpu/done: pyproject.toml
	$(PYTHON) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None and "make gpu takes the torch that fits your driver, and this Python has none; name one that has it, as in make gpu PYTHON=/path/to/python")'
	$(PYTHON) -m venv .venv-gpu
	$(PYTHON) -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' > \
		$$($(GPU)/python -c 'import site; print(site.getsitepackages()[0])')/torch-of-this-machine.pth
	$(GPU)/pip install --quiet --disable-pip-version-check expecttest numpy pytest pytest-timeout sybil pytest-xdist
	for peer in $(PEERS); do \
		timeout 90 $(GPU)/pip install --quiet --disable-pip-version-check $$peer || echo "$$peer does not install"; \
	done
	touch $@

gpu: .venv-gpu/done
	PYTHONPATH=src $(GPU)/python -m benchmarks.gpu --out $(GPU_OUT)

clean:
	rm -rf .venv .venv-lowest .venv-gpu $(DEMO_OUT) $(GPU_OUT) docs/_build build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
