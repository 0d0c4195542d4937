# The one task runner: people and CI use the same names. `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CODE := raft_service gpu_ops orchestrator_pkg tests benchmarks definitions.py setup.py

.DEFAULT_GOAL := help
.PHONY: help setup demo dev test check fmt lint types contracts unit real gpu-test proto-gen build bench-steps conformance clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# Set-up: virtual environment, pinned dependencies, protobuf stubs (the build writes them).
$(READY): pyproject.toml constraints.txt setup.py $(wildcard proto/*.proto)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned dependencies into $(VENV) (a minute or two the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' 2> $(VENV)/pip.log \
	  || { cat $(VENV)/pip.log >&2; exit 1; }
	@touch $(READY)

setup: $(READY)  ## Make the virtual environment with pinned dependencies and stubs

demo: $(READY)  ## Run the main job on a local cluster and kill its leader (KEEP=1 leaves it running, SF=1 for more data)
	@$(BIN)/python -m orchestrator_pkg.demo $(if $(KEEP),--keep) $(if $(SF),--scale $(SF))

dev: $(READY)  ## Open the Dagster UI on the shipped definitions, with the embedded control plane
	@$(BIN)/dagster dev

test: $(READY)  ## Run all tests; those that need a GPU skip and say so
	@$(BIN)/python -m pytest $(ARGS)

check: fmt-check lint types contracts unit  ## Format, lint, types, import contracts, fast tests: under two minutes

.PHONY: fmt-check
fmt-check: $(READY)
	@$(BIN)/ruff format --check --quiet $(CODE) || { echo "Not formatted: run 'make fmt'."; exit 1; }

fmt: $(READY)  ## Format the code
	@$(BIN)/ruff format --quiet $(CODE)
	@$(BIN)/ruff check --quiet --fix $(CODE)

lint: $(READY)  ## Lint the code
	@$(BIN)/ruff check --quiet $(CODE)

types: $(READY)  ## Check the types, strictly in the pure ring
	@$(BIN)/mypy

contracts: $(READY)  ## Check that imports point inward only
	@$(BIN)/lint-imports

unit: $(READY)  ## Run the fast tests
	@$(BIN)/python -m pytest -q tests/unit tests/property tests/scenario tests/fault $(ARGS)

conformance: $(READY)  ## Run etcd/raft's own test data against the core (DATA=folder, or a checkout of etcd-io/raft)
	@test -n "$(DATA)" || { echo "Say where the data are: make conformance DATA=folder"; exit 2; }
	@CONFORMANCE_DATA=$(DATA) $(BIN)/python -m pytest -q tests/scenario/test_conformance.py

real: $(READY)  ## Run the tests that start real processes
	@$(BIN)/python -m pytest -m real $(ARGS)

gpu-test: $(READY)  ## Run the tests that need a CUDA device
	@$(BIN)/python -m pytest tests/gpu $(ARGS)

bench-steps: $(READY)  ## Measure the cost of a step beside Dagster's own executors (QUICK=1, STRICT=1)
	@$(BIN)/python -m benchmarks.steps

proto-gen: $(READY)  ## Write the protobuf stubs to proto/gen
	@PYTHON=$(BIN)/python bash scripts/proto-gen.sh

build: $(READY)  ## Build the wheel and the source archive into dist/
	@$(BIN)/python -m build --quiet

clean:  ## Remove what the build, the tests and the pipelines wrote (not .venv)
	@rm -rf build dist proto/gen *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .orchestrator .dagster_home
	@rm -rf data/raw/* data/matrices/* data/processed/* $(READY)
