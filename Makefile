PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PATH_TO ?=

BIN := $(VENV)/bin
PARALLEL = --numprocesses "$$(.ci/workers)" --dist worksteal
CODE := .ci/check_wheel.py $(wildcard flowstate tests examples benchmarks)
LINKS := flowstate/drivers flowstate/engines flowstate/recovery flowstate/testcases flowstate/testing

.DEFAULT_GOAL := help
.PHONY: help links demo demo-ingest demo-pizza quick test test-all ctk nightly oldest prove check wheel bench-quick bench bench-full soak clean FORCE
# Two targets would install into the same environment at once.
.NOTPARALLEL:

help: ## print this list
	@echo "make TARGET [PYTHON=python3.12] [ARGS='arguments for pytest or the benchmarks']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

links: $(LINKS) ## let Python import the sources of this checkout, for examples by another environment

demo: $(VENV)/.demo ## run the order service, and kill it twice (PATH_TO=... for a file of your own)
	@$(BIN)/python -m examples.orders $(if $(PATH_TO),"$(PATH_TO)")

demo-ingest: $(VENV)/.demo ## run a job over many files, and kill it (PATH_TO=... for a folder of your own)
	@$(BIN)/python -m examples.ingest $(if $(PATH_TO),"$(PATH_TO)")

demo-pizza: $(VENV)/.demo ## run the pizza service over HTTP, and kill it
	@$(BIN)/python -m examples.pizza

quick: $(VENV)/.test ## run the tests that need no server and no long time (under a minute)
	@$(BIN)/python -m pytest $(PARALLEL) -m "not server and not slow and not alone and not nightly" $(ARGS)

test: $(VENV)/.test ## run the tests on all four stores (minutes)
	@$(BIN)/python -m pytest $(PARALLEL) -m "not nightly" $(ARGS)

ctk: $(VENV)/.test ## run the feature files of a conformance kit (PATH_TO=its folder)
	@$(BIN)/python -m tests.engines.tasks.conformance "$(PATH_TO)"

nightly: $(VENV)/.test ## run what takes long, planted bugs included (an hour)
	@$(BIN)/python -m pytest $(PARALLEL) -m nightly $(ARGS)
	@$(BIN)/python -m tests.proof

test-all: ## run the test suite on every Python from 3.11 to 3.13 found here
	@MAKE="$(MAKE)" .ci/test-all "$(PYTHON)"

oldest: ## run a part of the tests with the oldest dependencies that pyproject.toml allows
	@.ci/oldest "$(PYTHON)"

prove: $(VENV)/.test ## plant bugs, and print which layer of the suite finds them
	@$(BIN)/python -m tests.proof $(ARGS)

check: $(VENV)/.dev ## lint, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(CODE)

wheel: $(VENV)/.dev ## build the wheel and test what it installs
	@.ci/wheel $(BIN)/python

bench-quick: $(VENV)/.test ## run the benchmarks for 90 seconds, without other libraries
	@$(BIN)/python -m benchmarks quick $(if $(CI_ARTIFACTS),--output "$(CI_ARTIFACTS)/bench-quick") $(ARGS)

bench: ## run the benchmarks for a quarter of an hour, beside other libraries
	@$(MAKE) --no-print-directory VENV=.venvs/bench bench-full

bench-full: $(VENV)/.peers
	@$(BIN)/python -m benchmarks full $(ARGS)

soak: $(VENV)/.test ## run the endurance test, for an hour
	@$(BIN)/python -m tests.soak $(ARGS)

clean: ## remove everything that make has made
	@rm -rf .venv .venvs build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@rm -f $(LINKS)
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra: the environment holds it as pyproject.toml asked for it.
$(VENV)/.%: pyproject.toml $(VENV)/python-used | $(LINKS)
	@echo "installing .[$*] into $(VENV)"
	@$(BIN)/python -m pip install -qq --editable ".[$*]"
	@touch $@

$(VENV)/.peers: benchmarks/peers/requirements.txt $(VENV)/.test
	@echo "installing what the benchmarks compare with into $(VENV)"
	@$(BIN)/python benchmarks/peers/install.py $(BIN)/python
	@touch $@

# Rewritten only when the interpreter has changed, so the stamps stay good otherwise.
$(VENV)/python-used: FORCE
	@.ci/venv "$(PYTHON)" $(VENV)

$(LINKS):
	@ln -sfn ../$(@F) $@
