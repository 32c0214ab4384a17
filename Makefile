# make demo | test | lint | types | clean. Each target installs what it needs into .venv first.

VENV ?= .venv
TORCH ?= torch==2.13.0
WORKERS ?= 2
CPU_WHEELS := https://download.pytorch.org/whl/cpu
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: help demo test lint types setup clean

help:
	@echo "make demo    drawn hearts in, checked synthetic pairs out, in minutes on two cores"
	@echo "make test    the test suite"
	@echo "make lint    style"
	@echo "make types   static types"
	@echo "make setup   only the environment, in $(VENV)"
	@echo "make clean   remove $(VENV), caches and the demo's output"

demo: $(READY)
	@$(VENV)/bin/augmint demo

test: $(READY)
	@$(PY) -c 'import ray' 2>/dev/null \
	  || $(PIP) install -qq --constraint $(VENV)/constraints.txt --editable ".[ray]" \
	  || echo "Ray cannot be installed here; its tests are skipped"
	@OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile

lint: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(READY)
	@$(PY) -m mypy

setup: $(READY)

# The constraint keeps later packages from replacing the build of torch chosen here.
$(READY): pyproject.toml Makefile
	@set -e; \
	if [ -x $(PY) ]; then python=$(PY); else python=; fi; \
	for name in python3.11 python3 python3.12 python3.13 python; do \
	  if [ -z "$$python" ] && "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    >/dev/null 2>&1; then python=$$name; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "augmint needs Python 3.11 or newer as python3.11 or python3; found:" \
	    "$$(python3 --version 2>&1 || true). Install it and run make again." >&2; exit 1; fi; \
	rm -f $(READY); \
	echo "setting up $(VENV) with $$($$python --version); this takes minutes once"; \
	[ -x $(PY) ] || $$python -m venv $(VENV); \
	if $(PY) -c 'import torch' >/dev/null 2>&1; then :; \
	elif [ "$$(uname -s)" != Linux ] || nvidia-smi -L >/dev/null 2>&1; then \
	  $(PIP) install -qq "$(TORCH)"; \
	elif $(PY) -c 'import urllib.request as u; u.urlopen("$(CPU_WHEELS)/torch/", timeout=5)' \
	    >/dev/null 2>&1; then \
	  $(PIP) install -qq --index-url $(CPU_WHEELS) "$(TORCH)"; \
	else \
	  $(PIP) install -qq "$(TORCH)"; \
	fi; \
	$(PY) -c 'from importlib.metadata import version as v; print("torch==" + v("torch"))' \
	  > $(VENV)/constraints.txt; \
	$(PIP) install -qq --constraint $(VENV)/constraints.txt --editable ".[dev]"; \
	touch $(READY)

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
