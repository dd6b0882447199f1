# Everything runs from a virtual environment of its own, made on first use.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# mypy does not follow the import hook of an editable install: give it the package as a folder tree.
.build/typed/rfserve:
	mkdir -p $@
	ln -sfn ../../../export $@/export
	ln -sfn ../../../clients $@/clients
	ln -sfn ../../../loadtest $@/loadtest
	ln -sfn ../../../deploy/server $@/server

.PHONY: lint
lint: setup .build/typed/rfserve
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.build/typed $(BIN)/mypy

.PHONY: format
format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: test
test: setup
	$(BIN)/python -m pytest
