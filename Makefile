# The first Python of a supported version that really runs.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python --version >/dev/null 2>&1 && echo $$python && break; done)
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo test check lint clean

demo: $(INSTALLED)
	$(VENV)/bin/cambox demo --to demo

# Everything.
test: lint
	$(VENV)/bin/pytest

# For one who edits: under two minutes.
check: lint
	$(VENV)/bin/pytest -m "not slow"

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo
