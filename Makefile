# `make demo` and `make test` work on a fresh machine with python3 (3.11 or newer) and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo-out
VIDEO_OUT ?= demo-video-out
export HF_HUB_OFFLINE ?= 1

.PHONY: demo demo-video explore test lint package bench bench-masking clean

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
	$(BIN)/mae-cli explore $(OUT)/maps $(OUT)/random $(OUT)/salient

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

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
	rm -rf $(VENV) $(OUT) build dist *.egg-info
