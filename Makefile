# Every target sets up what it needs; a second run starts at once. After the set-up nothing needs the network.
#   make PYTHON=python3.12 VENV=/tmp/venv test

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
PIP_FLAGS ?=

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ddspo-installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast check format clean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## *"} /^[a-z-]+:.*##/ {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: PYTHON=$(PYTHON) VENV=$(VENV) TORCH=$(TORCH)"

# torch comes first and alone: the name without a version would fetch a CUDA build even where a CPU build is at hand.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than Python 3.11; run: make PYTHON=python3.11 ..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install $(PIP_FLAGS) --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

install: $(STAMP)  ## make .venv with the tested versions

demo: $(STAMP)  ## align the embedded model; prints the path of the report, runs/demo/report.html
	@$(BIN)/ddspo demo $(ARGS)

test: $(STAMP)  ## the whole suite
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(ARGS)

test-fast: $(STAMP)  ## the suite without slow tests
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not slow" $(ARGS)

check: $(STAMP)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the code as `make check` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches and the environment, keep runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
