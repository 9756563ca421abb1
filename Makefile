# The four commands of development, the same on a laptop and in CI; `make help` lists them.
# TORCH picks the build: `make demo TORCH="torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu"`
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CLIPS := runs/demo-clips
# The oldest transformers of the range, with the hub client and its http library of that time.
OLDEST := transformers==5.17.0 huggingface_hub==1.33.0 httpx==0.28.1 httpcore==1.0.9 certifi==2026.10.18

# A worker takes some 1.2 GB.
JOBS := -n logical --maxprocesses 8 --dist worksteal

.PHONY: help demo test test-slow test-oldest check fix readme wheel train-demo figures clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY) ## environment, a generated clip, and a real answer about it on the CPU
	$(BIN)/tokenreduce demo make $(CLIPS) --clips 1 --seed 31
	$(BIN)/tokenreduce ask $(CLIPS)/clip-000.mp4 "What colour is the star that appears briefly?" --model demo

test: $(READY) ## environment and the whole suite, on all cores
	$(BIN)/python -m pytest -q $(JOBS)

test-slow: $(READY) ## what takes minutes, too, with a Ray that is started for it
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[ray]"
	$(BIN)/python -m pytest -q -m "slow or not slow"

test-oldest: $(READY) ## models and engine on the oldest transformers of the range
	$(BIN)/python -m pip install -q --no-deps --upgrade --target runs/oldest $(OLDEST)
# Were the folder not searched first, the newest would be tested in silence.
	PYTHONPATH=runs/oldest $(BIN)/python -c 'import transformers as t; \
		assert f"transformers=={t.__version__}" == "$(firstword $(OLDEST))", t.__file__'
	PYTHONPATH=runs/oldest $(BIN)/python -m pytest -q $(JOBS) tests/engine tests/models

check: $(READY) ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(READY) ## what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: $(READY) ## write the README's table of methods anew, from the methods themselves
	$(BIN)/python -m benchmarks.readme

wheel: $(READY) ## build the wheel, install it in a fresh environment, test the installed copy
	rm -rf dist build runs/wheel
	$(BIN)/python -m build --wheel
	$(PYTHON) -m venv runs/wheel
	runs/wheel/bin/python -m pip install -q -c constraints.txt $(TORCH)
	runs/wheel/bin/python -m pip install -q -c constraints.txt "$$(echo dist/*.whl)[dev]"
	TOKENREDUCE_TEST_INSTALLED=1 runs/wheel/bin/pytest -q tests

train-demo: $(READY) ## train the embedded demo model from scratch (about 100 minutes on 2 cores)
	$(BIN)/python -m training

figures: $(READY) ## draw the figures of docs/methods.md from the measured JSON
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[figures]"
	$(BIN)/python -m benchmarks.figures

clean: ## what the other targets made
	rm -rf build dist runs *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
