# The first Python of a supported version that really runs.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python --version >/dev/null 2>&1 && echo $$python && break; done)
VENV := .venv
INSTALLED := $(VENV)/.installed

# Python compiles what it imports and keeps it, also where the shell says that it should not: pip
# would compile everything that it installs first, which takes two minutes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check lint clean

demo: $(INSTALLED)
	$(VENV)/bin/cambox demo --to demo

# Two processes at a time with one thread each, as half of the tests wait for others; in the order
# of the files, because few tests do not mean a short time.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n 2 --dist loadgroup --no-loadscope-reorder

# Everything.
test: lint
	$(PYTEST)

# For one who edits: under two minutes.
check: lint
	$(PYTEST) -m "not slow"

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --upgrade pip
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --no-compile --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo
