# Both commands build .venv on first use.
.PHONY: train test bench install clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PACKAGES := flows objectives envs agents

train: $(VENV)/installed
	$(BIN)/maxentflow train meow --env maxentflow/MultiGoal-v0

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES:%=-p maxentflow.%)
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadgroup

# REFERENCE=path of a checkout of the paper's public code measures that too.
bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,bench]"
	for env in Hopper-v4 Humanoid-v4; do for threads in 1 2; do \
	  $(BIN)/python benchmarks/speed.py --env $$env --threads $$threads \
	    $(if $(REFERENCE),--reference $(REFERENCE)) || exit 1; \
	done; done

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
