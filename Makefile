# Every command builds .venv on first use.
.PHONY: train test types quick test-all coverage docs docs-serve notebooks help-texts bench install clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PORT ?= 8000
PACKAGES := flows objectives envs agents

train: $(VENV)/installed
	$(BIN)/maxentflow train meow --env maxentflow/MultiGoal-v0 --paper

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(MAKE) --jobs 2 types quick

types: $(VENV)/installed
	$(BIN)/mypy $(PACKAGES:%=-p maxentflow.%)

quick: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow"

# With what takes longest: the site, more cases of each kind, more compilations.
test-all: test
	$(BIN)/pytest -n 2 --dist loadgroup -m slow

# The quick tests, with the share of lines and branches that they run.
coverage: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow" --cov --cov-report term --cov-fail-under 95

docs: $(VENV)/installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "Open docs/_build/html/index.html, or run make docs-serve."

docs-serve: docs
	$(BIN)/python -m http.server --directory docs/_build/html $(PORT)

notebooks: $(VENV)/installed
	$(BIN)/python examples/execute.py

# The texts that --help shows, after a change of an option.
help-texts: $(VENV)/installed
	$(BIN)/python -c "from maxentflow.agents.cli import help_texts; help_texts.write()"

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
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev,docs,notebooks]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build docs/tutorials
