# Every task of the project. `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml 2>/dev/null | sha256sum | cut -c1-16)
# What is compared with the trainer, apart from what it needs itself.
PEERS := benchmarks/.packages/.installed

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-fast test-torch test-cluster lint generate lock bench-trainer \
  cluster cluster-down clean

help: ## List the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## Make the virtual environment from the lock file

$(STAMP): requirements.lock pyproject.toml
	scripts/setup $(VENV) $(PYTHON)
	@rm -f $(VENV)/.installed-* && touch $@

quickstart: $(STAMP) ## Fine-tune a real encoder on this machine
	$(BIN)/finetune run examples/quickstart/job.yaml

test: $(STAMP) ## Every test: lint, fast, trainer, real cluster; a report of times at the end
	$(BIN)/python scripts/run_tests.py

test-fast: $(STAMP) ## The tests that need neither torch nor a cluster, in about a minute
	$(BIN)/pytest -m "not torch and not cluster" -q -n 2

test-torch: $(STAMP) ## The trainer's tests
	$(BIN)/pytest -m torch -q -n 2 --dist loadfile

test-cluster: $(STAMP) ## The tests on a real control plane and node (root)
	$(BIN)/pytest -m cluster -q

lint: $(STAMP) ## Style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: $(STAMP) ## Write the CRDs into the chart, and the architectures of each task
	$(BIN)/python -m finetune_api.schema charts/finetune-operator/crds
	$(BIN)/python -m finetune_trainer.architectures trainer/finetune_trainer/architectures.json

lock: ## Resolve the newest versions into the lock file
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --generate-hashes --no-header \
	  --no-emit-index-url --quiet --upgrade pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --no-deps --generate-hashes --no-header \
	  --no-emit-index-url --quiet --upgrade benchmarks/requirements.in -c requirements.lock -o benchmarks/requirements.lock

bench-trainer: $(STAMP) $(PEERS) ## The trainer beside transformers.Trainer and TRL (hours); ARGS="--quick" looks whether it runs
	$(BIN)/python -m benchmarks.trainer $(ARGS)

$(PEERS): benchmarks/requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --require-hashes --python $(BIN)/python --upgrade --target $(@D) -r $<
	@touch $@

cluster: $(STAMP) ## Leave a real cluster running to play with
	PYTHONPATH=tests $(BIN)/python -m support.cluster up --with-operator

cluster-down: ## Stop it
	PYTHONPATH=tests $(BIN)/python -m support.cluster down

clean: ## Remove the virtual environment and runs (caches stay)
	rm -rf $(VENV) runs
