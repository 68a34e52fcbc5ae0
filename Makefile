# Every target sets itself up: a fresh .venv from constraints.txt, reused until pyproject.toml or
# constraints.txt change.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

# The test suite runs several Ray workers and torch processes on few cores: one thread each, and no
# usage reports.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED = 0
# SLURM's daemons are there.
export PATH := $(PATH):/usr/sbin:/sbin

CLUSTER := $(VENV)/.cluster
DOCS    := $(VENV)/.docs

.PHONY: demo test test-fast test-gpu test-cluster cluster-python cluster-tools lint type fmt check \
  clean prior-smoke docs docs-commands

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	  "gigarestore needs Python 3.11 or newer, found " + sys.version.split()[0] + \
	  "; set PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 2; }
	$(INSTALL) ".[dev,demo]"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/gigarestore demo

# Two processes at a time: first what needs no Ray, then the tests with Ray, since a module starts
# one. What measures time or memory, or computes with two threads, runs alone at the end.
# Tests without Ray at the lowest priority beside those with Ray were tried: on two cores they
# starve, and some reach their time limit.
# The tests on SLURM and on Ray clusters with a dashboard are apart: test-cluster.
PYTEST = $(BIN)/python -m pytest
test: $(STAMP)
	@code=0; \
	$(PYTEST) -n 2 --dist worksteal -m "not ray and not alone and not cluster" || code=$$?; \
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder \
	  -m "ray and not alone and not cluster" || code=$$?; \
	$(PYTEST) -m "alone and not cluster" || code=$$?; \
	exit $$code
	@echo "not run here: the tests on several nodes of a real SLURM and a real Ray cluster" \
	  "(make test-cluster, as root on Debian)"

test-fast: $(STAMP)
	$(PYTEST) -n 2 --dist worksteal -m "not ray and not slow and not alone and not cluster"

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

# A real SLURM on virtual hosts and real Ray clusters with dashboards. What is missing is an error
# here, not a skip.
test-cluster: cluster-python cluster-tools
	GIGARESTORE_CLUSTER=1 $(BIN)/python -m pytest -m cluster

cluster-python: $(CLUSTER)

$(CLUSTER): $(STAMP)
	$(INSTALL) ".[dev,demo,jobs]"
	@touch $(CLUSTER)

cluster-tools:
	@for program in slurmctld slurmd munged ip ps unshare nsenter; do \
	  command -v $$program >/dev/null && continue; \
	  test "$$(id -u)" = 0 || { \
	    echo "$$program is missing; as root: apt-get install slurm-wlm munge iproute2 procps" >&2; \
	    exit 2; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends slurm-wlm munge iproute2 procps >/dev/null; exit; done

# Two minutes on a processor: training improves by a margin, survives kill -9, and repeats its first
# losses.
prior-smoke: $(STAMP)
	$(BIN)/python -m kernels.training.self_test

# The documentation, into build/docs. Needs no network once the packages are there.
docs: $(DOCS)
	$(BIN)/mkdocs build --strict --quiet -f docs/site/mkdocs.yml
	@echo "built: build/docs/index.html"

$(DOCS): $(STAMP)
	$(INSTALL) ".[docs]"
	@touch $(DOCS)

# The README's commands as printed, in their order, on a fresh clone of what is committed.
docs-commands:
	$(PYTHON) docs/site/readme_commands.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell kernels storage orchestrator cluster tests docs *.md

type: $(STAMP)
	$(BIN)/mypy

fmt: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint type test

clean:
	rm -rf $(VENV) build *.egg-info
