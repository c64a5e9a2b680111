# Every target sets up what it needs: a virtual environment in .venv, made once and again when the dependencies change.
# Needed beforehand: Python 3.11 (with venv and pip). `make PYTHON=/path/to/python3.11 test` chooses one.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
TORCH  ?= 2.13.0
VISION ?= 0.28.0
ESCNN  ?= 1.0.11
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test lint format bench sweep clean

help:
	@echo "make demo    compile and verify resnet50 and vit_b_16, run a GMN over both, write graphs and pictures to out/"
	@echo "make test    run the tests"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make bench   speed and memory of compilation"
	@echo "make sweep   compile and verify many architectures, write docs/coverage.md (hours; resumes)"
	@echo "make format  let ruff rewrite the code"
	@echo "make clean   remove build outputs (not .venv)"

setup: $(STAMP)

# torch first, at the tested version: an uncapped install takes the newest. torchvision without dependencies, so that it cannot replace it.
# escnn (for an example) without those dependencies that need a Fortran compiler or numpy 1: rotations in the plane do without them.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 not found: install it, or pass PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet "torch==$(TORCH)"
	$(PY) -m pip install --quiet --no-deps "torchvision==$(VISION)"
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(PY) -m pip install --quiet --no-deps "escnn==$(ESCNN)" pymanopt==2.2.1 autograd==1.9.1 joblib==1.4.2
	@touch $@

# Waiting threads sleep rather than spin: many small operations on a busy machine otherwise take several times as long.
demo: $(STAMP)
	OMP_WAIT_POLICY=PASSIVE $(PY) examples/demo.py --out out $(ARGS)

# Two processes with one thread each: small tests gain nothing from more threads. A process that is done takes over tests of the other.
test: $(STAMP)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	PYTHONPATH=. $(VENV)/bin/lint-imports

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .

bench: $(STAMP)
	$(PY) benchmarks/compile_speed.py $(ARGS)

# transformers and torch_geometric take part where they are installed.
sweep: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) benchmarks/sweep.py $(ARGS)

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
