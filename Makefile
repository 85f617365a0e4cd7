# `make` lists the targets. Each sets up what it needs in .venv, and needs no more than Python 3.11 and make.
#
#   ARGS=...       more arguments for what the target runs: make test ARGS="-k refused"
#   PYTHON=...     the interpreter to make .venv with
#   COVERAGE=1     make test: measure branch coverage, and fail below 95 %
#   UPGRADE=1      make lock: take the newest versions

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
CODE := gateway tests deploy .ci

# Tests wait for their servers more than for the processors; beyond a few they wait for one another.
SIDE_BY_SIDE := --numprocesses=4

ifdef COVERAGE
PYTEST := $(BIN)/coverage run -m pytest $(SIDE_BY_SIDE)
else
PYTEST := $(BIN)/python -m pytest $(SIDE_BY_SIDE)
endif

.PHONY: help setup demo test check check-style check-types check-imports check-lock check-rules check-dashboards check-chart check-manifests soak mutants benchmark stack rules dashboards dashboards-preview chart lock format wheel-test clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv with everything in it (every other target does so by itself)

export PYTHON
$(READY): requirements.lock pyproject.toml
	@.ci/setup .venv
	@touch $@

demo: $(READY) ## place a call through a simulated contact centre, then stay up to play with
	@$(BIN)/dial-gateway demo $(ARGS)

test: $(READY) ## run all tests
ifdef COVERAGE
	@$(BIN)/coverage erase
	$(PYTEST) $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report --fail-under 95
else
	$(PYTEST) $(ARGS)
endif

check: check-style check-types check-imports check-lock check-rules check-dashboards check-chart ## run every check that needs no test run

check-style: $(READY) ## lint, and look at the format
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

check-types: $(READY) ## type check, strictly
	$(BIN)/mypy

check-imports: $(READY) ## look at the layers, the modules and the words that must not be in the tree
	$(BIN)/python -m tests.unit.test_imports

check-rules: $(READY) ## see that the recording rules are what deploy/prometheus writes
	$(BIN)/python -m deploy.prometheus --check

check-dashboards: $(READY) ## see that the dashboards are what deploy/grafana writes
	$(BIN)/python -m deploy.grafana --check

check-chart: $(READY) ## see that the Helm chart is what the overlay `shared` makes
	$(BIN)/python -m deploy.helm --check

check-lock: $(READY) ## see that the locks were made from this pyproject.toml
	$(BIN)/python .ci/lock.py --check

check-manifests: $(READY) ## have checkov look at the Kubernetes manifests and the Dockerfile
	@.ci/checkov

SOAK ?= 2000
soak: $(READY) ## have the machine of calls go so many ways (SOAK=2000), others each time
	DIAL_GATEWAY_SOAK=$(SOAK) $(BIN)/python -m pytest tests/calls/test_machine.py $(ARGS)

mutants: $(READY) ## delete each security check in turn, and see that a test fails for it
	@$(BIN)/python -m tests.attack.mutants $(ARGS)

benchmark: $(READY) ## measure against nginx and others on this machine
	@$(BIN)/python -m tests.benchmark $(ARGS)

stack: $(READY) ## run two gateways on one Redis, a simulated contact centre, callers and Prometheus, on this machine
	@$(BIN)/python -m deploy.local $(ARGS)

rules: $(READY) ## write Prometheus' recording rules anew from deploy/prometheus
	@$(BIN)/python -m deploy.prometheus $(ARGS)

dashboards: $(READY) ## write the Grafana dashboards anew from deploy/grafana
	@$(BIN)/python -m deploy.grafana $(ARGS)

dashboards-preview: $(READY) ## draw the dashboards with Grafana's components, from the data of a stack that runs for minutes
	@$(BIN)/python -m deploy.grafana.preview $(ARGS)

chart: $(READY) ## write the Helm chart anew from the overlay `shared`
	@$(BIN)/python -m deploy.helm $(ARGS)

lock: $(READY) ## make requirements.lock and the image's parts of it anew from pyproject.toml
	$(BIN)/python .ci/lock.py $(if $(UPGRADE),--upgrade)

format: $(READY) ## format the code and mend what the linter can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

wheel-test: $(READY) ## build the wheel and the source archive, and try the wheel in an empty environment
	.ci/wheel-test

clean: ## remove .venv and everything else that was made
	rm -rf .venv build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
