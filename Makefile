# Two commands on a fresh machine with Python, pip and make: `make demo` and `make test`.
# Each builds .venv by itself, once, from the pins in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
# Two processes; the tests of a file stay together, for the sake of what they share.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile
export PIP_CONSTRAINT := $(abspath constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check lint format report clean

demo: .venv/.demo
	$(BIN)/eclipse demo --out demo-output

test: .venv/.dev lint
	$(PYTEST)

check: .venv/.dev lint
	$(PYTEST) -m "not slow"

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages of the committed results: HTML and TeX are built, report.md is committed, too.
report: .venv/.demo
	for grid in benchmarks/results/*/grid.json; do $(BIN)/eclipse report $$(dirname $$grid) || exit 1; done

.venv/bin/python:
	$(PYTHON) -m venv .venv

# --no-compile: modules are compiled when they are first imported, and most never are.
.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --no-compile --editable '.[report]'
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	touch .venv/.demo $@

clean:
	rm -rf .venv demo-output .mypy_cache .ruff_cache .pytest_cache
