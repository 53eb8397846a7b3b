# Everything to get started: `make run`, `make test`. VENV and PYTHON can be set from outside.
# The newest Python that works: newer ones get a newer JAX, which does better beside PyTorch (docs/results.md).
PYTHON ?= $(firstword $(foreach python,python3.13 python3.12 python3.11 python3,\
  $(shell $(python) -c 'import ensurepip, venv' 2>/dev/null && echo $(python))) python3)
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/ddpm_mnist.py
N ?= 100

.PHONY: run test test-long test-slow torture bad-inputs check style smoke bench clean

run: $(VENV)/.installed  ## train the main config (CONFIG=...), with samples, metrics and report
	$(BIN)/python -m gen_jax.main --config=$(CONFIG)

test: $(VENV)/.test  ## the fast tests and all docstring examples
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-long: $(VENV)/.test  ## the tests of whole runs, and of the contract of every method
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'long and not slow' tests

test-slow: $(VENV)/.test  ## the slow tests
	$(BIN)/python -m pytest -m slow tests

torture: $(VENV)/.test  ## N runs of every method, killed, resumed and compared with uninterrupted runs
	$(BIN)/python tests/torture.py --runs=$(N)

bad-inputs: $(VENV)/.test  ## regenerate docs/bad_inputs.md: user mistakes and their error messages
	$(BIN)/python tests/test_bad_inputs.py

check: style test-long  ## what a change must pass besides `make test`

style: $(VENV)/.test  ## style, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# In this order stackgan_shapes comes before stackgan_shapes_large, which is built on its run.
smoke: export LC_ALL = C
smoke: $(VENV)/.installed  ## the smallest variant of every config, end to end
	for config in configs/*.py; do $(BIN)/python -m gen_jax.main --config=$$config:tiny || exit 1; done

bench: $(VENV)/.bench  ## train steps and sampler compared with PyTorch; samplers; the loop, data and start-up
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.samplers
	$(BIN)/python -m benchmarks.loop
	$(BIN)/python -m benchmarks.dsprites

clean:  ## remove the environment and tool caches; keep runs/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gen_jax needs Python 3.11 or newer: make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.installed

$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@ $(VENV)/.installed
