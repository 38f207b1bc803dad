# Six verbs. Each works as the first command in a fresh clone: it makes .venv and installs what it needs.
# Needs Python 3.11 or newer, make and a C++ compiler (DeepSpeed builds a small operator when training first starts).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: quickstart test lint bench pictures clean

quickstart: $(READY)
	rm -rf quickstart
	$(BIN)/cxr-mtl quickstart --out quickstart

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2
	$(BIN)/pytest -m slow

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)
	for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark || exit 1; done

# Of the demo, on drawn films, from what `make quickstart` left; needs Chromium.
pictures: $(READY)
	$(BIN)/python docs/pictures.py

clean:
	rm -rf .venv quickstart runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set it with: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
