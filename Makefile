# `make run`, `workshop`, `test`, `e2e`, `bench` and `gpu` do their own set-up, on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
E2E ?= tests/e2e
E2E_ARGS ?=
# Those that `make bench` runs: with --json they print their figures, and they change no file of the repository.
BENCH := api celora_gradient celora_loss celora_step chaos classroom click_to_card click_to_loss cluster lab lesson_times \
  live_spectra memory_estimate room side_by_side small_machine spectra start_up training_throughput

.PHONY: help run workshop test check lint types layers unit e2e bench gpu chromium clean

help:
	@echo "make run    set up and open the app (ARGS='--port 7860 --home DIR')"
	@echo "make workshop   the same for the local network, with a QR code (docs/teaching.md)"
	@echo "make test   set up and run all checks: style, types, layers, unit, contract and browser tests"
	@echo "make check  the same without the set-up"
	@echo "make e2e    only the browser tests (E2E=tests/e2e/test_main_path.py for one file)"
	@echo "make bench  the benchmarks that only measure, one after the other, as JSON"
	@echo "make gpu    GPU tests and the benchmarks that a GPU changes, in under 8 minutes; writes gpu.json"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python requirements.txt requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.run

run: $(VENV)/.run
	$(PY) app.py $(ARGS)

# A server for the local network, with its address as a QR code: see docs/teaching.md.
workshop: $(VENV)/.run
	$(PY) app.py --workshop $(ARGS)

# The browser tests drive Debian's Chromium, one of them behind nginx; where the browser is missing and may be installed, both are.
chromium:
	@test -n "$$LORA_PLAYGROUND_CHROMIUM" || command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  echo "Installing Chromium and nginx for the browser tests"; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq chromium nginx-light >/dev/null; \
	  else sudo -n apt-get update -qq && sudo -n apt-get install -y -qq chromium nginx-light >/dev/null; fi; } \
	|| { echo "The browser tests need Chromium: install it (Debian: apt-get install chromium) and try again."; exit 1; }

test: $(VENV)/.dev
	$(MAKE) --no-print-directory check

check: lint types layers unit e2e

lint:
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m tools.structure

types:
	$(PY) -m mypy

layers:
	$(VENV)/bin/lint-imports

unit:
	$(PY) -m pytest tests --ignore=tests/e2e -q -n 2 --dist loadfile --no-loadscope-reorder

e2e: $(VENV)/.dev chromium
	$(PY) -m pytest $(E2E) -q -n 2 --dist loadfile $(E2E_ARGS)

bench: $(VENV)/.dev
	@for script in $(BENCH:%=benchmarks/%.py); do echo "== $$script"; $(PY) $$script --json || exit 1; done

gpu: $(VENV)/.dev
	$(PY) benchmarks/gpu.py --out gpu.json

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
