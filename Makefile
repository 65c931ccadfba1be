# `make bench` and `make test` do all set-up on a fresh machine; everything else is run.py underneath.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: help env demo bench bench-full test test-slow test-slurm mutants check format docs

help:            ## this list
	@grep -E '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

env: $(READY)    ## make the environment in .venv

# torch by name and first: asked for by another package it may bring gigabytes of CUDA.
$(READY): requirements.txt requirements-tests.txt requirements-baselines.txt requirements-search.txt requirements-slurm.txt requirements-wandb-layout.txt constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt -r requirements-tests.txt -c constraints.txt
	touch $@

demo: env        ## two methods trained and compared in about a minute; too small for conclusions
	@$(BIN)/python -m rlbench.demo

# The report is made even where a cell failed; the exit status is still that of the sweep.
bench: env       ## the embedded benchmark: table and curves in reports/mini
	@$(BIN)/python run.py experiment=mini; status=$$?; \
	$(BIN)/python -m analysis.report runs/mini --out reports/mini && exit $$status

bench-full: env  ## the same with five seeds and both rewards of the paper
	@$(BIN)/python run.py experiment=mini reward=relevance,log_decay seed=0,1,2,3,4; status=$$?; \
	$(BIN)/python -m analysis.report runs/mini --out reports/mini && exit $$status

# Two processes with one thread each are faster on two cores than one process with two threads. Files start in the order of
# their folders, so that the long ones (contract, integration) do not begin last.
test: env        ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: env   ## the slow ones, about an hour
	$(BIN)/python -m pytest -m slow

test-slurm: env  ## a SLURM cluster on this machine (Debian, as root), about six minutes
	tests/slurm/cluster.sh
	$(BIN)/python -m pytest -m slurm tests/slurm; status=$$?; tests/slurm/cluster.sh stop; exit $$status

mutants: env     ## plant bugs one at a time and see whether the tests notice, about half an hour
	$(BIN)/python -m tests.mutants

check: env       ## lint, format, types, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env      ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS_READY)  ## the documentation site, in site/; broken links and anchors are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(DOCS_READY): $(READY) requirements-docs.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-docs.txt -c constraints.txt
	touch $@
