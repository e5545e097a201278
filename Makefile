# `make demo` and `make test` need Python 3.11 or newer and nothing else: what is missing is set up in .venv, once.

PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
SOURCES := pytest_dlparity tests examples benchmarks

# one thread each: torch's barriers collapse when two test processes share the cores
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.PHONY: setup demo test catalog atlas docs examples bench lint types clean

setup: $(READY)

demo: $(READY)
	$(PY) -m pytest examples --dlparity-report=all -q -s
	$(PY) examples/wrong_port.py

test: $(READY)
	$(PY) -m pytest -n 2

# a share of the catalogue by the hash of an entry's name, families and entries by name: make catalog SHARE=1/3,pooling DTYPES=float32,bfloat16
# all of it, at night (.ci/night) and on a new machine: make catalog SHARE=1/1
SHARE ?= 1/3
DTYPES ?= float32
catalog: $(READY)
	$(PY) -m pytest -n 2 --dlparity-catalog=$(SHARE) --dlparity-dtypes=$(DTYPES)

# measures what docs/atlas/ shows and writes its pages; the second command alone writes them again
atlas: $(READY)
	$(PY) -m pytest -q -n 2 --dlparity-catalog --dlparity-dtypes=float32,bfloat16,float16 --dlparity-json=.atlas.json
	$(PY) -m pytest_dlparity.catalog.atlas .atlas.json docs/atlas

docs: $(READY)
	$(PY) -m pytest -n 2 tests/test_markdown.py

examples: $(READY)
	$(PY) -m pytest -n 2 examples

bench: $(READY)
	$(PY) -m pytest examples --dlparity-speed --benchmark-only

lint: $(READY)
	$(PY) -m ruff check $(SOURCES)

types: $(READY)
	$(PY) -m mypy

clean:
	rm -rf .venv .atlas.json .calibration.jsonl .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "$(PYTHON) is Python %d.%d and pytest-dlparity needs 3.11 or newer: say which one to use, as in `make $(or $(MAKECMDGOALS),test) PYTHON=python3.12`." % v[:2] or 0)'
	@echo "Setting up .venv: a minute or two, once."
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -qq --disable-pip-version-check --constraint requirements/constraints.txt --editable '.[dev]'
	@touch $@
