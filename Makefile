# Two commands matter: `make demo` runs the whole line on real images, `make test` passes the tests.
# Both make the environment first. Everything is installed from this project's own files.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-faults test-long benchmark lint format audit sbom lock ci clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s%s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, found %d.%d: make PYTHON=/path/to/python3.11" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP) ## make the environment in .venv

demo: setup ## shards -> train (2 workers) -> bits/dim -> guided samples, on real images
	$(BIN)/python -m jobs.demo

test: setup ## the quick tests
	$(BIN)/python -m pytest -m "not slow and not benchmark"

test-slow: setup ## real clusters, faults and long runs: two halves side by side, as both mostly wait
	$(MAKE) -j 2 --output-sync=line test-faults test-long

HALF := tests/faults tests/infra
test-faults: setup ## the half with the faults and what is around a cluster
	$(BIN)/python -m pytest -m slow $(HALF)

test-long: setup ## the other half
	$(BIN)/python -m pytest -m slow $(addprefix --ignore=,$(HALF))

benchmark: setup ## side-by-side measurements
	$(BIN)/python -m pytest -m benchmark -s

lint: setup ## style, format, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## rewrite the files in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: setup ## known holes in the pinned dependencies (needs the network)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audit]'
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

sbom: setup ## bill of materials of the environment: sbom.json (CycloneDX)
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-file sbom.json $(BIN)/python

lock: setup ## write infra/locks: versions and digests for the images (needs the network)
	$(BIN)/python infra/lock.py

ci: ## what .ci/run calls
	bash .ci/run

clean: ## remove the environment and caches (never runs/ or datasets/)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
