# The two commands: `make demo` and `make test`. Each does its own set-up in .venv, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Never a "+cpu" pin: torch comes first and by exact version, the hashed lock holds everything else.
TORCH := torch==2.13.0
# Where it comes from, if not from the package index you use: https://download.pytorch.org/whl/cpu has it without CUDA.
TORCH_INDEX ?=
READY := $(VENV)/.ready
# One worker more than cores, up to four; tests/conftest.py says why, and which tests stay together.
ON_BOTH_CORES := -n auto --maxprocesses=4 --no-loadscope-reorder --durations=20

# Set in many containers: each of some hundred processes would compile the package anew, and pytest every test.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test quick lint types docs lock clean

demo: $(READY)
	@$(BIN)/jind-nb run parameters/demo.yaml

test: $(READY)
	$(BIN)/python -m pytest $(ON_BOTH_CORES)

quick: $(READY)
	$(BIN)/python -m pytest $(ON_BOTH_CORES) -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The website, in docs/_build; the tutorial is executed, and a warning is an error.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -c docs -d docs/_build/doctrees . docs/_build/html

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

# Needs uv (`pip install uv`); settings under [tool.uv] in pyproject.toml.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --fork-strategy fewest --no-emit-package torch --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
