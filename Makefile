# All commands for development and CI. `make` without a target lists them.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-tl3 check bench torture programs clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

# Install torch first and alone, so that packages that need torch find this build and do not fetch another.
# .venv/typing shows pyright the package under its import name, which differs from the name of its folder.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headway needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	mkdir -p .venv/typing && ln -sfn ../.. .venv/typing/headway
	touch $(READY)

# All versions are those of constraints.txt but that of TransformerLens.
.venv-tl3/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-tl3
	sed 's/^transformer-lens==.*/transformer-lens==3.9.0/' constraints.txt > .venv-tl3/constraints.txt
	.venv-tl3/bin/pip install --quiet --constraint .venv-tl3/constraints.txt torch
	.venv-tl3/bin/pip install --quiet --constraint .venv-tl3/constraints.txt --editable '.[dev]'
	touch .venv-tl3/.ready

demo: $(READY)  ## train the induction recipe and report the circuits that form
	@if [ -e runs/induction/config.yaml ]; \
	then $(BIN)/headway train --resume runs/induction; \
	else $(BIN)/headway train induction; fi

# Compiled tests are kept, whatever the environment says: each worker takes seconds to compile them.
PYTEST := pytest -n 3 --dist worksteal

test: $(READY)  ## run the tests, but those of whole programs
	PYTHONDONTWRITEBYTECODE= $(BIN)/$(PYTEST) -m "not whole"

test-tl3: .venv-tl3/.ready  ## run all tests with TransformerLens 3.9, in an environment of its own
	PYTHONDONTWRITEBYTECODE= .venv-tl3/bin/$(PYTEST)

check: $(READY)  ## lint, types, all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	PYTHONDONTWRITEBYTECODE= $(BIN)/$(PYTEST)

bench: $(READY)  ## benchmark a step, a run, its measures and start-up, as ratios (ONLY=step for one part)
	$(BIN)/python tests/bench.py $(ONLY)

torture: $(READY)  ## kill 100 runs at seeded moments, then mutate their files for 3 minutes (ONLY=seed for one kill)
	$(BIN)/python tests/torture.py $(if $(ONLY),--minutes 0 --only $(ONLY))

programs: $(READY)  ## make the table of compiled programs again, and compare it with docs/results.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/tracr_table.py --check

clean:  ## remove the environments (runs stay)
	rm -rf .venv .venv-tl3 *.egg-info build
