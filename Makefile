# Every target sets itself up: a fresh .venv from constraints.txt, reused until pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# The test suite runs several Ray workers and torch processes on few cores: one thread each, and no usage reports.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: demo test test-fast test-gpu lint type fmt check clean prior-smoke

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "gigarestore needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo]"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/gigarestore demo

test: $(STAMP)
	$(BIN)/python -m pytest

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not ray and not slow"

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

# Two minutes on a processor: training improves by a margin, survives kill -9, and repeats its first losses.
prior-smoke: $(STAMP)
	$(BIN)/python -m kernels.smoke

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
