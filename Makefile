# `make` lists what there is to do. Every target installs what it lacks, once.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test unit faults functional lab matrix integration lint format coverage docs reference pack \
	sbom analyse lock upgrade nova-env clean distclean env test-packages \
	functional-packages deps bare bare-packages

# Survives `git clone` and `make clean`: tools, Nova, the lab's disk images.
export PCI_PASSTHROUGH_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pci-passthrough

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# A file's tests stay together: many share a host, a box or a story.
PARALLEL := --numprocesses=auto --dist=loadfile
CHARM := build/pci-passthrough.charm
BENCH_RUN = PYTHONPATH=tests:src:lib:. $(PYTHON) -m bench
SHELL_SCRIPTS = $(shell grep --files-with-matches --extended-regexp \
	'^#!/bin/bash|^\# shellcheck shell' scripts/* .ci/run)

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: pack env deps ## Show the main job on a virtual machine with PCI devices
	@PYTHONPATH=tests:src:lib $(PYTHON) -m lab.demo

test: unit faults functional lab ## Run every test that needs no Juju controller

unit: env test-packages ## Run the unit tests and hold the coverage above its floor
	@scripts/tier "unit tests" $(PYTEST) $(PARALLEL) tests/unit -m "not faults" --cov --cov-report=term

faults: env test-packages ## Kills at every effect, random lives of a host, 100,000 hostile inputs
	@scripts/tier "fault tests" $(PYTEST) $(PARALLEL) tests/unit tests/fuzz -m faults

functional: pack env nova-env functional-packages ## Run the packed charm against a stand-in unit agent and the real Nova
	@scripts/tier "functional tests" $(PYTEST) $(PARALLEL) --no-loadscope-reorder tests/functional

lab: pack env deps ## Run the charm on a virtual machine with PCI devices
	@scripts/tier "lab tests" $(PYTEST) tests/lab

matrix: pack env deps ## Show the charm on every kind of host, or on MACHINE=NAME: one table
	@scripts/tier "matrix" $(PYTEST) tests/lab --rows=$(or $(MACHINE),all) --matrix-json=build/matrix.json

bare: bare-packages ## Run README's two commands, or TIERS="lint unit", where only make and git are installed
	@scripts/bare $(TIERS)

bench: pack env bench-packages ## Compare with lspci and an empty charm; BENCH=--quick or --keep (docs)
	@$(BENCH_RUN) $(BENCH)

bench-lab: pack env deps ## Compare binding with driverctl in a virtual machine; BENCH=--keep (docs)
	@$(BENCH_RUN).lab $(BENCH)

fleet: env ## Simulate what a fleet costs; writes docs/explanation/fleet-cost anew
	@$(BENCH_RUN).fleet --write

integration: export MACHINES := $(MACHINES)
integration: export CARDS := $(CARDS)
integration: pack ## Run the charm under a real Juju; MACHINES="ssh:ubuntu@a ssh:ubuntu@b" CARDS=10de:1bb0
	@command -v juju >/dev/null || { \
		echo "error: the integration tests need the command juju, and a controller with a cloud of" >&2; \
		echo "machines: MACHINES names your own (docs/how-to/try-on-your-hardware.md). On Ubuntu:" >&2; \
		echo "  sudo snap install juju" >&2; \
		echo "  sudo snap install lxd && sudo lxd init --auto && juju bootstrap localhost" >&2; exit 1; }
	@scripts/sync-env .venv-integration requirements/integration.txt
	@scripts/tier "integration tests" .venv-integration/bin/python -m pytest --exitfirst \
		tests/integration

lint: env ## Check style, types, rooms, spelling, shell scripts and workflows
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	.venv/bin/pyright
	PYTHONPATH=src .venv/bin/lint-imports --no-logo --no-cache
	.venv/bin/shellcheck $(SHELL_SCRIPTS)
	.venv/bin/codespell
	scripts/actionlint
	.venv/bin/zizmor --offline --quiet .github/workflows

format: env ## Format the code and mend what ruff can mend
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

coverage: unit ## Write the unit tests' coverage to build/coverage/index.html
	@$(PYTHON) -m coverage html --directory build/coverage

docs: env ## Build the documentation into build/docs; a broken link or a warning is an error
	@$(PYTHON) scripts/reference.py --check
	@$(PYTHON) scripts/manual.py --check
	@$(PYTHON) scripts/rooms.py --check
	@scripts/sync-env .venv-docs requirements/docs.txt
	@.venv-docs/bin/mkdocs build --strict --clean --site-dir build/docs
	@echo "build/docs/index.html"

reference: env ## Write what repeats the code: options, actions, man page, completions, the rooms
	@$(PYTHON) scripts/reference.py
	@$(PYTHON) scripts/manual.py
	@$(PYTHON) scripts/rooms.py

pack: ## Build build/pci-passthrough.charm with charmcraft
	@scripts/pack

sbom: pack env ## Write build/pci-passthrough.cdx.json: what the packed charm is made of
	@$(PYTHON) scripts/sbom.py $(CHARM) >build/pci-passthrough.cdx.json
	@echo "build/pci-passthrough.cdx.json"

analyse: pack ## Run charmcraft's linters over the packed charm
	@scripts/analyse $(CHARM)

lock: ## Write requirements/*.txt anew after a change of pyproject.toml
	@scripts/lock

upgrade: ## Lock the newest versions that pyproject.toml allows
	@scripts/lock --upgrade

nova-env: ## Install the real Nova, for the functional tests, into the cache
	@scripts/nova_env >/dev/null

clean: ## Remove what make built here
	rm -rf .venv .venv.lock .venv-docs .venv-docs.lock .venv-integration .venv-integration.lock
	rm -rf build .coverage .tox
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find bin lib src tests scripts -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove the caches too: tools, Nova, the lab's disk images
	@scripts/distclean

env: ## Install the Python packages for development into .venv
	@scripts/sync-env .venv requirements/dev.txt

bench-packages:
	@scripts/install-packages "the benchmarks" bench/requirements-apt.txt

bare-packages:
	@scripts/install-packages "bare machines" scripts/requirements-apt.txt

test-packages:
	@scripts/install-packages "the unit tests" tests/unit/requirements-apt.txt

functional-packages:
	@scripts/install-packages "the functional tests" tests/functional/requirements-apt.txt

deps: ## Install the apt packages that the lab's virtual machines need (root or sudo)
	@scripts/install-packages "the lab's virtual machines" tests/lab/requirements-apt.txt
