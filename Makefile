# Both commands build .venv on first use.
.PHONY: train test install clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PACKAGES := flows objectives envs agents

train: $(VENV)/installed
	$(BIN)/maxentflow train meow --env maxentflow/MultiGoal-v0

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(VENV)/typing $(BIN)/mypy $(PACKAGES:%=-p maxentflow.%)
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadgroup

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	mkdir -p $(VENV)/typing
	ln -sfn $(CURDIR) $(VENV)/typing/maxentflow  # where mypy finds the namespace
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
