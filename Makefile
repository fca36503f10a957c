# `make demo` and `make test` work on a fresh machine with python3 (3.11 or newer) and make.
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
BIN := $(VENV)/bin
OUT ?= demo-out
VIDEO_OUT ?= demo-video-out
export HF_HUB_OFFLINE ?= 1

.PHONY: demo demo-video explore test test-lowest lint package bench bench-masking clean

# Installed once; again only when what is installed changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/mae-cli demo --out $(OUT)

demo-video: $(VENV)/.installed
	$(BIN)/mae-cli demo --video --out $(VIDEO_OUT)

# What the demo made, in the browser.
explore: $(VENV)/.installed
	test -d $(OUT)/salient || $(BIN)/mae-cli demo --out $(OUT)
	$(BIN)/mae-cli explore $(OUT)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# The same with the oldest versions that pyproject.toml allows, in an environment of their own.
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

$(LOWEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[test]'
	touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/prose.py

# Wheel and sdist, checked, and the wheel run in an empty environment.
package: $(VENV)/.installed
	$(BIN)/python tools/package.py

bench: $(VENV)/.installed
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

# A small part of the masking benchmark, run anew: every figure has to be the one that was kept.
bench-masking: $(VENV)/.installed
	folder=$$(mktemp -d) && $(BIN)/python benchmarks/masking/run.py quick --check --out $$folder; \
	code=$$?; rm -rf $$folder; exit $$code

clean:
	rm -rf $(VENV) $(LOWEST) $(OUT) build dist *.egg-info
