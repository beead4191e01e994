# Everything a person or CI runs. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

# torch comes first and alone: what needs it must find it there, and not fetch another build.
# The folder .venv/typing shows pyright the package under its import name, which is not the folder's.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headway needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	mkdir -p .venv/typing && ln -sfn ../.. .venv/typing/headway
	touch $(READY)

demo: $(READY)  ## train the induction toy and say what formed
	@if [ -e runs/induction/config.yaml ]; \
	then $(BIN)/headway train --resume runs/induction; \
	else $(BIN)/headway train induction; fi

test: $(READY)  ## run the tests
	$(BIN)/pytest -n 2

check: $(READY)  ## lint, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(MAKE) test

bench: $(READY)  ## what a step, a run, its measures and a start cost, as ratios (ONLY=step for one part)
	$(BIN)/python tests/bench.py $(ONLY)

clean:  ## remove the environment (runs stay)
	rm -rf .venv *.egg-info build
