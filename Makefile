# All commands for development and CI. `make` without a target lists them.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check bench torture programs clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

# Install torch first and alone, so that packages that need torch find this build and do not fetch another.
# .venv/typing shows pyright the package under its import name, which differs from the name of its folder.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headway needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	mkdir -p .venv/typing && ln -sfn ../.. .venv/typing/headway
	touch $(READY)

demo: $(READY)  ## train the induction recipe and report the circuits that form
	@if [ -e runs/induction/config.yaml ]; \
	then $(BIN)/headway train --resume runs/induction; \
	else $(BIN)/headway train induction; fi

# Compiled tests are kept, whatever the environment says: each worker takes seconds to compile them.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 3 --dist worksteal

test: $(READY)  ## run the tests, but those of whole programs
	$(PYTEST) -m "not whole"

check: $(READY)  ## lint, types, all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(PYTEST)

bench: $(READY)  ## benchmark a step, a run, its measures and start-up, as ratios (ONLY=step for one part)
	$(BIN)/python tests/bench.py $(ONLY)

torture: $(READY)  ## kill 100 runs at seeded moments, then mutate their files for 3 minutes (ONLY=seed for one kill)
	$(BIN)/python tests/torture.py $(if $(ONLY),--minutes 0 --only $(ONLY))

programs: $(READY)  ## make the table of compiled programs again, and compare it with docs/results.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/tracr_table.py --check

clean:  ## remove the environment (runs stay)
	rm -rf .venv *.egg-info build
