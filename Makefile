# Touchneedle. `make demo` on a fresh clone needs nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RESULTS ?= results/local
REPORTS ?= reports/local
SPEED ?= results/reference/speed
# One thread per process keeps small networks fast and sweeps side by side fair.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint types bench bench-gpu reference clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## Install into .venv, once, and again when the requirements change

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,test]'
	touch $@

demo: install ## A small sweep over every method and exact toy, and its leaderboard
	@status=0; \
	$(BIN)/touchneedle run -m sweep=smoke launcher=joblib results=$(RESULTS) || status=$$?; \
	$(BIN)/touchneedle report $(RESULTS) -o $(REPORTS) || status=$$?; \
	echo "records:     $(RESULTS)/"; \
	echo "leaderboard: $(REPORTS)/leaderboard.html"; \
	exit $$status

test: install ## Tests, lint and types
	$(BIN)/python -m pytest -q -n 2
	$(MAKE) --no-print-directory lint types

test-slow: install ## Training proofs and end-to-end runs
	$(BIN)/python -m pytest -q -m slow

lint: install ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## mypy --strict and pyright
	$(BIN)/mypy --python-executable $(BIN)/python
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: install ## Speed of the pieces, as a table
	$(call measured,cpu,not cuda)

bench-gpu: install ## The same on a GPU, where a piece can run there
	$(call measured,gpu,cuda)

# A failed measurement leaves the others in the table.
define measured
	@status=0; \
	$(BIN)/python -m pytest -q tests/performance --benchmark-only -k '$(2)' --speed $(SPEED)/$(1).json || status=$$?; \
	$(BIN)/python -m tests.performance.table $(SPEED)/$(1).json || status=$$?; \
	exit $$status
endef

reference: install ## The published board and its report (90 minutes on two cores; goes on where it stopped)
	@status=0; \
	$(BIN)/touchneedle run -m sweep=reference results=results/reference launcher=joblib launcher.n_jobs=2 || status=$$?; \
	$(BIN)/touchneedle audit --seeds 3 --results results/reference || status=$$?; \
	gzip -9nf results/reference/*.json || status=$$?; \
	$(BIN)/touchneedle report results/reference -o reports/reference || status=$$?; \
	exit $$status

clean: ## Remove what was made here, records and leaderboards of results/local included
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache $(RESULTS) $(REPORTS)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
