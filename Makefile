# Everything to get started: `make run`, `make test`. VENV and PYTHON can be set from outside.
# The newest Python that works: newer ones get a newer JAX, which does better beside PyTorch (docs/results.md).
PYTHON ?= $(firstword $(foreach python,python3.13 python3.12 python3.11 python3,\
  $(shell $(python) -c 'import ensurepip, venv' 2>/dev/null && echo $(python))) python3)
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= configs/ddpm_mnist.py
N ?= 100

# What `make release-check` installs the package into: the oldest and the newest Python.
RELEASE_PYTHONS ?= python3.11 python3.13
GALLERY := runs/gallery
GALLERY_RUNS := ddpm_mnist vae_mnist cgan_mnist coupling_mnist

.PHONY: run test test-long test-slow torture bad-inputs check style smoke bench docs gallery notebooks release-check clean

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

docs: gallery $(VENV)/.docs  ## the documentation as a site, in build/site; links are checked, nothing is downloaded
	$(BIN)/python -m doctest website/docstrings.py website/hook.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo 'look at it: $(BIN)/python -m http.server --directory build/site'

gallery: $(GALLERY_RUNS:%=$(GALLERY)/%/report.html) $(GALLERY)/losses/compare.html  ## small runs, whose pages the site shows

$(GALLERY)/%/report.html: | $(VENV)/.installed
	$(BIN)/python -m gen_jax.main --config=$*:tiny --config.data.name=stroke_digits --config.num_steps=600 \
	  --config.log_every=25 --config.eval_every=200 --config.checkpoint_every=300 --workdir=$(GALLERY)/$*

$(GALLERY)/losses/compare.html: | $(VENV)/.installed
	$(BIN)/python -m gen_jax.sweep --config=gan_gaussians:tiny gan.loss=hinge,relativistic seed=0,1 \
	  --config.num_steps=600 --config.eval_every=200 --config.checkpoint_every=300 --workdir=$(GALLERY)/losses
	$(BIN)/python -m gen_jax.main --mode=compare $(GALLERY)/losses

notebooks: $(VENV)/.docs  ## write notebooks/*.ipynb from the scripts beside them
	$(BIN)/python notebooks/convert.py

release-check: $(VENV)/.release  ## build wheel and sdist, install each into an empty environment, run a tiny job there
	$(BIN)/python tests/release.py $(RELEASE_PYTHONS)

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

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@ $(VENV)/.installed

$(VENV)/.release: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[release]'
	touch $@ $(VENV)/.installed
