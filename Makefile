# Two commands do everything on a machine with Python 3.11 or newer and nothing else: make demo, make test.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test check chaos bench quality up image wheelhouse clean

BIN := .venv/bin
SOURCES := orchestrator worker_image dashboard tests scripts/*.py

# Parts that jobs need in .venv itself when no engine runs them in the worker image.
engine_answers = docker version >/dev/null 2>&1 && [ "$$SAEFORGE_EXECUTOR" != process ]

help: ## Show this.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: ## Train a real SAE and watch it. ONCE=1 exits at its end; DEMO_STEPS=100 is sooner there; DOCKER=install installs an engine first (root, Debian or Ubuntu).
	@if [ "$(DOCKER)" = install ]; then scripts/install-docker; fi
	@if $(engine_answers); then scripts/install orchestrator,dashboard; else scripts/install all; fi
	@$(BIN)/python scripts/demo.py $(if $(ONCE),--once) $(if $(DEMO_STEPS),--steps $(DEMO_STEPS))

test: ## Install everything, check the code, run every test that this machine can run.
	@scripts/install dev
	@scripts/peers
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest --numprocesses auto tests/unit
	$(BIN)/pytest --numprocesses 2 --dist loadfile --ignore tests/unit

check: ## The fast part of it: formatting, types, layers, unit tests.
	@scripts/install dev
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest --numprocesses auto tests/unit

.PHONY: lint
lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Chosen once for the whole of make, so that what is printed is what is tried.
FIRST := $(or $(FIRST),$(shell od -An -N3 -tu4 /dev/urandom | tr -d ' '))

chaos: ## Kill everything at random while jobs are submitted, purged and restarted; FIRST=n SCHEDULES=1 repeats one.
	@scripts/install dev
	@echo "FIRST=$(FIRST): 'make chaos FIRST=$(FIRST)' tries the same again"
	CHAOS_FIRST=$(FIRST) CHAOS_SCHEDULES=$(or $(SCHEDULES),100) CHAOS_EXAMPLES=$(or $(EXAMPLES),500) \
		$(BIN)/pytest --hypothesis-seed=$(FIRST) tests/chaos/test_schedules.py tests/chaos/test_state_machine.py

bench: ## Measure how fast the orchestrator is, on a quiet machine; ONLY="submit idle" runs some of benchmarks/.
	@scripts/install dev
	@for name in $(or $(ONLY),submit planner launch reattach idle logs metrics checkpoint); do $(BIN)/python -m benchmarks.$$name || exit 1; done

quality: ## Train every SAE family where the features are known and hold it to figures; GPU=1 in the large world.
	@scripts/install dev
	@$(BIN)/python -m benchmarks.quality $(if $(GPU),--gpu) $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(FAMILIES),--families $(FAMILIES)) $(if $(WORLDS),--worlds $(WORLDS))

up: ## Start the orchestrator and the dashboard; jobs run in containers, or as processes where no engine answers.
	@if $(engine_answers); then $(MAKE) --no-print-directory image; else scripts/install all; fi
	@$(BIN)/saeforge up

image: ## Build the worker image.
	@scripts/install orchestrator,dashboard
	@TORCH_INDEX_URL="$$(scripts/torch-index)" scripts/worker-image

wheelhouse: ## Download the wheels of the images, for building them where there is no network.
	@scripts/install orchestrator,dashboard
	@TORCH_INDEX_URL="$$(scripts/torch-index)" $(BIN)/python scripts/wheelhouse worker --extras worker --python 3.11
	@$(BIN)/python scripts/wheelhouse service --extras orchestrator,dashboard --python 3.11

clean: ## Remove .venv, wheels and caches; what was trained stays.
	rm -rf .venv .peers wheelhouse build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
